"""What was hashed before: Parquet files of paths, stamps, sizes and SHA-256, one written by each task.

A record counts as long as the stamp of its file is the same, which is its size and its modification time or
entity tag. Records only save reading: all of them may be deleted.
"""

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import BytesIO
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from common.files import remove_partials, replacing
from common.retry import retried
from common.storage import Address, is_local, list_folder, read_bytes
from pipeline.ingest.content import RECORD, Numbers
from pipeline.ingest.listing import PIECE
from pipeline.runner.prefetch import THREADS, read_ahead

COLUMNS: Final = pa.schema(
    [("source", pa.string()), ("stamp", pa.string()), ("bytes", pa.int64()), ("sha256", pa.binary(32))]
)

PART: Final = 4096
"""Sources of one file, which an interrupted run loses at most of each task."""

MOST_SMALL: Final = 64
"""Files with less than half of `PART` sources, as small changes leave them, that are kept apart."""

LOCAL_THREADS: Final = 2
"""Files of records that are read at a time, unless they lie in a store."""

Stamps = Callable[[Sequence[str]], list[str | None]]
"""The stamps of paths as they are now."""


def records_folder(manifests: Address, root: Address) -> Address:
    """Where the records of files below `root` lie, beside the manifests of an output."""
    name = hashlib.sha256(str(root.absolute()).encode()).hexdigest()[:16]
    return (manifests / "records-ingest" / name).absolute()


def write_part(folder: Address, part: pa.Table) -> None:
    """Write records, with the columns `COLUMNS`, into a file that is named after them."""
    digest = hashlib.sha256()
    for name in ("source", "stamp"):
        digest.update("\n".join(part[name].to_pylist()).encode())
    with replacing(folder / f"{digest.hexdigest()[:16]}.parquet") as temporary:
        pq.write_table(part, temporary, compression="zstd")


class HashRecords:
    """The records in a folder.

    Args:
        folder: of the records, which need not exist.
        retry_minutes: of patience with its store.
    """

    def __init__(self, folder: Address, retry_minutes: float) -> None:
        self._folder, self._minutes = folder, retry_minutes
        self._small: list[str] = []

    def matching(self, paths: pa.ChunkedArray, stamps: Stamps) -> Iterator[tuple[Numbers, NDArray[Any]]]:
        """The numbers of sorted paths whose files have not changed, and their contents of the type `RECORD`.

        A number may come several times.
        """
        remove_partials(self._folder)
        files = retried(lambda: list_folder(self._folder), self._minutes, "ingest")
        for name, part in self._parts(sorted(files)):
            if part.num_rows < PART // 2:
                self._small.append(name)
            for start, stop in _overlap(paths, part["source"]):
                some = paths.slice(start, stop - start).combine_chunks().cast(pa.string())
                positions = pc.index_in(some, value_set=part["source"].combine_chunks())
                numbers = np.flatnonzero(positions.is_valid().to_numpy(zero_copy_only=False))
                known = part.take(positions.drop_null())
                current = pa.array(stamps(some.take(pa.array(numbers)).to_pylist()), pa.string())
                same = pc.fill_null(pc.equal(known["stamp"], current), False)
                yield numbers[same.to_numpy()] + start, _records(known.filter(same))

    def merge_small(self) -> None:
        """Replace the small files that were read by larger ones, if there are many."""
        if len(self._small) <= MOST_SMALL:
            return
        names = self._small
        table = pa.concat_tables(part for _, part in self._parts(names)).combine_chunks()
        table = table.take(pc.sort_indices(table["source"]))
        for start in range(0, table.num_rows, PART):
            write_part(self._folder, table.slice(start, PART))
        for name in names:
            (self._folder / name).unlink(missing_ok=True)

    def _parts(self, names: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
        def read(name: str) -> bytes:
            return retried(partial(read_bytes, self._folder / name), self._minutes, "ingest")

        threads = LOCAL_THREADS if is_local(self._folder) else THREADS
        for name, content in read_ahead(read, names, threads):
            try:
                yield name, pq.read_table(BytesIO(content.result())).select(COLUMNS.names).cast(COLUMNS)
            except (pa.ArrowException, KeyError):
                continue  # damaged, or of another version: what it says is hashed again


def _overlap(paths: pa.ChunkedArray, part: pa.ChunkedArray) -> Iterator[tuple[int, int]]:
    """Where the paths from the first to the last of a sorted part are, `PIECE` at a time."""
    if not len(part):
        return
    numbers = range(len(paths))
    first = bisect_left(numbers, part[0].as_py(), key=lambda number: paths[number].as_py())
    last = bisect_right(numbers, part[-1].as_py(), key=lambda number: paths[number].as_py())
    for start in range(first, last, PIECE):
        yield start, min(start + PIECE, last)


def _records(part: pa.Table) -> NDArray[Any]:
    records = np.zeros(part.num_rows, RECORD)
    digests = b"".join(part["sha256"].to_pylist())
    records["sha256"] = np.frombuffer(digests, "V32")
    records["size"], records["hashed"] = part["bytes"].to_numpy(), True
    return records
