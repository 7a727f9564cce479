"""The usable rows of ``source.parquet`` by shard, in a temporary file until a shard is needed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from tempfile import NamedTemporaryFile
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from common import manifest
from common.storage import Address
from common.tables import add_parquet, batches, connect, quoted

KEY_DIGITS: Final = 16  # Hex digits of the SHA-256 of a photo that are its key


@dataclass(frozen=True)
class ShardRows:
    """The rows of one shard, read when needed; pickled, they take no other rows of the plan along."""

    read: Callable[[], pa.RecordBatch]
    count: int

    def __len__(self) -> int:
        return self.count

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self.read(),)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The rows as dictionaries; ``key`` is among them where ``sha256`` is."""
        for row in self.read().to_pylist():
            if "sha256" in row:
                row["key"] = row["sha256"][:KEY_DIGITS]
            yield row

    def shuffled(self, seed: int) -> "ShardRows":
        """The rows in a random order that depends on the seed and their number alone."""

        def read() -> pa.RecordBatch:
            return self.read().take(pa.array(np.random.default_rng(seed).permutation(self.count)))

        return ShardRows(read, self.count)


def _unpickled(batch: pa.RecordBatch) -> ShardRows:
    return ShardRows(lambda: batch, batch.num_rows)


@dataclass(frozen=True)
class PlannedShards:
    """What ``source.parquet`` plans."""

    sources: int  # rows, those that are refused included
    refused: pa.Table  # the refused ones, with the columns of ``quarantine.parquet``
    attributes: tuple[str, ...]  # names of the attribute columns
    metadata: Mapping[str, str]  # of the manifest
    # by their names, sorted, the rows of each in the order of ``source.parquet``
    shards: Mapping[str, ShardRows]


def read_planned(path: Address, columns: Sequence[str]) -> PlannedShards:
    """Read ``source.parquet``: of the rows, these columns; the key is part of the SHA-256.

    Raises:
        UserError: the file is missing or is not a manifest.
    """
    header = manifest.read(path, [])
    with connect() as database:
        add_parquet(database, "sources", path)
        refused = database.sql(
            "SELECT source, reason, detail FROM sources WHERE reason IS NOT NULL ORDER BY source"
        ).to_arrow_table()
        names = ", ".join(map(quoted, ["shard", *columns]))
        rows = f"SELECT {names} FROM sources WHERE shard IS NOT NULL ORDER BY shard, source"
        shards = stored(_by_shard(batches(database, rows)))
    return PlannedShards(header.table.num_rows, refused, header.attributes, header.metadata, shards)


def _by_shard(sorted_batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[str, pa.RecordBatch]]:
    name, waiting = "", list[pa.RecordBatch]()
    for batch in sorted_batches:
        runs = pc.run_end_encode(batch["shard"])
        ends = [0, *runs.run_ends.to_pylist()]
        for shard, (start, end) in zip(runs.values.to_pylist(), pairwise(ends), strict=True):
            if shard != name and waiting:
                yield name, pa.concat_batches(waiting)
                waiting = []
            name = shard
            waiting.append(batch.slice(start, end - start).drop_columns(["shard"]))
    if waiting:
        yield name, pa.concat_batches(waiting)


def stored(shards: Iterator[tuple[str, pa.RecordBatch]]) -> dict[str, ShardRows]:
    """The rows of shards by name, each a record batch of a temporary file; the last one deletes the file."""
    counts, writer = dict[str, int](), None
    with NamedTemporaryFile() as file:
        for name, rows in shards:
            writer = writer or pa.ipc.new_file(file.name, rows.schema)
            writer.write_batch(rows)
            counts[name] = rows.num_rows
        if writer is None:
            return {}
        writer.close()
        read = pa.ipc.open_file(pa.OSFile(file.name)).get_batch
    return {
        name: ShardRows(partial(read, number), count) for number, (name, count) in enumerate(counts.items())
    }
