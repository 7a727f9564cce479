"""The shards in a folder, by one listing, one index, and the records that are new since.

The index beside the manifests repeats what a run needs of each record, with the stamp by which the listing
tells whether the record is still the same. It only saves requests: without it all records are read.
"""

import json
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial

from common.errors import UserError
from common.files import remove, write_text
from common.layout import Layout
from common.storage import Address, TransientError, is_local, list_folder, read_bytes
from pipeline.runner.shard_record import record_path, to_record


@dataclass(frozen=True)
class FinishedShard:
    """What a run needs of the record of a shard; `stamp` is of its file, and `samples` are counted."""

    stamp: str
    made_from: dict[str, str]
    samples: int
    quarantined: list[dict[str, str]]


class FinishedShards:
    """The finished shards of a stage in a folder, by the names of their tars: ``shards``.

    Only `update` writes the file of the index, which lies beside the manifests.

    Raises:
        OSError: the store does not answer.
    """

    def __init__(self, folder: Address, layout: Layout, stage: str) -> None:
        self._folder, self._index = folder, layout.manifests / f"records-{stage}.json"
        self._files = list_folder(folder)
        self.shards: dict[str, FinishedShard] = {}
        try:
            indexed = json.loads(read_bytes(self._index))
            self._indexed = {name: FinishedShard(**shard) for name, shard in indexed.items()}
        except (FileNotFoundError, ValueError, TypeError, AttributeError):
            self._indexed = {}
        self._tars = [name for name in self._files if name.endswith(".tar")]
        self._read(self._tars)

    def find(self, tar: Address) -> FinishedShard | None:
        """The shard if it is finished, even if the listing of its store lags behind and lacks it."""
        if tar.name not in self.shards and not is_local(tar):
            self._read([tar.name], listed=False)
        return self.shards.get(tar.name)

    def update(self, tars: Iterable[Address]) -> None:
        """Read the records of these shards, made after the folder was listed, and write the index.

        Raises:
            OSError: the store does not answer, or has a record not yet.
        """
        names = [tar.name for tar in tars]
        if names:
            # The stamps may still be those of earlier records, and are then outdated at the next run.
            self._files = list_folder(self._folder)
            self._read(names, listed=False)
            if late := [name for name in names if name not in self.shards and not is_local(self._folder)]:
                raise TransientError(f"{self._folder / late[0]}: its record is written, but not there yet")
        if self.shards != self._indexed:
            shards = {name: asdict(shard) for name, shard in sorted(self.shards.items())}
            write_text(self._index, json.dumps(shards) + "\n")

    def remove_unplanned(self, planned: set[str], prune: bool) -> None:
        """Delete tars, with their records, that an earlier plan left in the folder, if `prune` allows it.

        Those without a sample are deleted in any case.

        Raises:
            UserError: it does not, and there are some.
        """
        unplanned = [name for name in self._tars if re.search(r"-\d{6,}\.tar$", name) and name not in planned]
        kept = [name for name in unplanned if name not in self.shards or self.shards[name].samples]
        if kept and not prune:
            raise UserError(
                f"{self._folder} holds {len(kept):,} shards that are not in the plan, such as "
                f"{min(kept)}; --prune deletes them, another --output keeps them"
            )
        for name in unplanned:
            remove(record_path(self._folder / name))
            remove(self._folder / name)

    def _read(self, names: list[str], listed: bool = True) -> None:
        with ThreadPoolExecutor(16) as pool:
            shards = zip(names, pool.map(partial(self._finished, listed), names), strict=True)
            self.shards |= {name: shard for name, shard in shards if shard}

    def _finished(self, listed: bool, name: str) -> FinishedShard | None:
        """The shard by its record, which is read unless it is `listed` as the index knows it."""
        path = record_path(self._folder / name)
        stamp, indexed = self._files.get(path.name, ""), self._indexed.get(name)
        if listed and (not stamp or (indexed and indexed.stamp == stamp)):
            return indexed if stamp else None
        with suppress(FileNotFoundError):
            if record := to_record(read_bytes(path)):
                return FinishedShard(stamp, record.made_from, len(record.samples), record.quarantined)
        return None
