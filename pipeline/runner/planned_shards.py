"""The usable rows of ``source.parquet`` by shard, in a temporary file until a shard is needed."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from tempfile import TemporaryFile
from typing import IO, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from common import manifest
from common.storage import Address
from common.tables import add_parquet, batches, connect, quoted

KEY_DIGITS: Final = 16
"""Hex digits of the SHA-256 of a photo that are its key."""


@dataclass(frozen=True)
class _Stored:
    """A record batch in a temporary file, which is closed, and so deleted, with its last batch."""

    file: IO[bytes]
    offset: int
    size: int
    schema: pa.Schema

    def read(self) -> pa.RecordBatch:
        data = os.pread(self.file.fileno(), self.size, self.offset)
        return pa.ipc.read_record_batch(pa.py_buffer(data), self.schema)


@dataclass(frozen=True)
class ShardRows:
    """The rows of one shard; pickled, they take no other rows of the plan along."""

    _rows: _Stored | pa.RecordBatch
    _count: int
    _seed: int | None = None

    def __len__(self) -> int:
        return self._count

    def __reduce__(self) -> tuple[type["ShardRows"], tuple[Any, ...]]:
        return ShardRows, (self._read(), self._count)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The rows as dictionaries; ``key`` is among them where ``sha256`` is."""
        for row in self._read().to_pylist():
            if "sha256" in row:
                row["key"] = row["sha256"][:KEY_DIGITS]
            yield row

    def values(self, names: Sequence[str]) -> list[list[Any]]:
        """The values of these columns, a list per row."""
        return [[row[name] for name in names] for row in self]

    def shuffled(self, seed: int) -> "ShardRows":
        """The rows in a random order that depends on the seed and their number alone."""
        return replace(self, _seed=seed)

    def _read(self) -> pa.RecordBatch:
        batch = self._rows.read() if isinstance(self._rows, _Stored) else self._rows
        if self._seed is None:
            return batch
        return batch.take(pa.array(np.random.default_rng(self._seed).permutation(self._count)))


@dataclass(frozen=True)
class PlannedShards:
    """What ``source.parquet`` plans.

    Attributes:
        sources: rows, those that are refused included.
        refused: the refused ones, with the columns of ``quarantine.parquet``.
        attributes: names of the attribute columns.
        metadata: of the manifest.
        shards: by their names, sorted, the rows of each in the order of ``source.parquet``.
    """

    sources: int
    refused: pa.Table
    attributes: tuple[str, ...]
    metadata: Mapping[str, str]
    shards: Mapping[str, ShardRows]

    def refusals(self) -> Iterator[dict[str, str]]:
        """The refused rows as dictionaries."""
        for batch in self.refused.to_batches():
            yield from batch.to_pylist()


def read_planned(path: Address, columns: Sequence[str]) -> PlannedShards:
    """Read ``source.parquet``.

    Args:
        path: the file to read.
        columns: those of the rows that are needed; the key is part of the SHA-256.

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
        shards = dict(_stored(_by_shard(batches(database, rows))))
    return PlannedShards(header.table.num_rows, refused, header.attributes, header.metadata, shards)


def _by_shard(sorted_batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[str, pa.RecordBatch]]:
    """The rows of each shard without its name."""
    name, waiting = "", list[pa.RecordBatch]()
    for batch in sorted_batches:
        runs = pc.run_end_encode(batch["shard"])
        start = 0
        for shard, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
            if shard != name and waiting:
                yield name, pa.concat_batches(waiting)
                waiting = []
            name = shard
            waiting.append(batch.slice(start, end - start).drop_columns(["shard"]))
            start = end
    if waiting:
        yield name, pa.concat_batches(waiting)


def _stored(shards: Iterator[tuple[str, pa.RecordBatch]]) -> Iterator[tuple[str, ShardRows]]:
    file, offset = TemporaryFile(), 0  # noqa: SIM115 - closed with the last of the rows
    for name, rows in shards:
        data = rows.serialize()
        file.write(data)
        yield name, ShardRows(_Stored(file, offset, data.size, rows.schema), rows.num_rows)
        offset += data.size
    file.flush()
