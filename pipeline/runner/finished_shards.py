"""What the records in a folder of shards say: one listing, one index, and the records that are new since.

The index beside the manifests repeats what a run needs of each record, with the stamp by which the listing
tells whether the record is still the same. It only saves requests: without it all records are read.
"""

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Final

from common.files import write_text
from common.storage import Address, list_folder, read_bytes
from pipeline.runner.shard_record import record_path, to_record

READ_THREADS: Final = 16


@dataclass(frozen=True)
class FinishedShard:
    """What a run needs of the record of a shard.

    Attributes:
        stamp: of the record's file.
        fingerprint: as in the record.
        code: as in the record.
        samples: how many there are.
        quarantined: as in the record.
    """

    stamp: str
    fingerprint: str
    code: str
    samples: int
    quarantined: list[dict[str, str]]


class FinishedShards:
    """The finished shards of a folder, by the names of their tars.

    Args:
        folder: of the tars.
        index: the file of the index, which is not written here.

    Raises:
        OSError: the store does not answer.
    """

    def __init__(self, folder: Address, index: Address) -> None:
        self._folder, self._index = folder, index
        self._files = list_folder(folder)
        self._indexed = self._read_index()
        self._shards: dict[str, FinishedShard] = {}
        self._read(name for name in self._files if name.endswith(".tar"))

    @property
    def tars(self) -> list[str]:
        """The names of all tars in the folder, finished or not."""
        return [name for name in self._files if name.endswith(".tar")]

    def get(self, tar: Address) -> FinishedShard | None:
        """The shard if it is finished."""
        return self._shards.get(tar.name)

    def update(self, tars: Iterable[Address]) -> None:
        """Read the records of these shards, made after the folder was listed, and write the index.

        Raises:
            OSError: the store does not answer.
        """
        names = [tar.name for tar in tars]
        if names:
            self._files = list_folder(self._folder)
            self._read(names)
        if self._shards != self._indexed:
            shards = {name: asdict(shard) for name, shard in sorted(self._shards.items())}
            write_text(self._index, json.dumps(shards) + "\n")

    def _read(self, names: Iterable[str]) -> None:
        with ThreadPoolExecutor(READ_THREADS) as pool:
            for name, shard in pool.map(self._finished, list(names)):
                if shard:
                    self._shards[name] = shard

    def _finished(self, name: str) -> tuple[str, FinishedShard | None]:
        path = record_path(self._folder / name)
        stamp = self._files.get(path.name)
        if stamp is None:
            return name, None
        indexed = self._indexed.get(name)
        if indexed and indexed.stamp == stamp:
            return name, indexed
        record = to_record(read_bytes(path))
        if record is None:
            return name, None
        return name, FinishedShard(
            stamp, record.fingerprint, record.code, len(record.samples), record.quarantined
        )

    def _read_index(self) -> dict[str, FinishedShard]:
        try:
            shards = json.loads(read_bytes(self._index))
            return {name: FinishedShard(**shard) for name, shard in shards.items()}
        except (FileNotFoundError, ValueError, TypeError, AttributeError):
            return {}
