"""The usable rows of ``source.parquet`` by shard, in columns of some tens of bytes a row."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from common import manifest
from common.columns import coded, combined
from common.storage import Address

KEY_DIGITS: Final = 16
"""Hex digits of the SHA-256 of a photo that are its key."""

_CODED: Final = {"split": pa.int8(), "identity": pa.int32(), "notices": pa.int8()}
"""Columns with few values, which are kept as numbers of these types."""

_HEXADECIMAL: Final = {"sha256": 32, "key": KEY_DIGITS // 2}
"""Columns of hexadecimal digits, which are kept as so many bytes."""


class ShardRows:
    """The rows of one shard; pickled, they take no other rows of the plan along.

    Args:
        columns: of all shards, as `read_planned` makes them.
        indices: of the rows, in their order.
    """

    def __init__(self, columns: pa.Table, indices: NDArray[np.integer[Any]] | None = None) -> None:
        self._columns, self._indices = columns, indices

    def __len__(self) -> int:
        return self._columns.num_rows if self._indices is None else len(self._indices)

    def __reduce__(self) -> tuple[type["ShardRows"], tuple[pa.Table]]:
        return ShardRows, (self._own(),)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The rows as dictionaries; ``key`` is among them where ``sha256`` is."""
        for row in self._own().to_pylist():
            row |= {name: row[name].hex() for name in _HEXADECIMAL if name in row}
            if "sha256" in row:
                row["key"] = row["sha256"][:KEY_DIGITS]
            yield row

    def values(self, names: Sequence[str]) -> list[list[Any]]:
        """The values of these columns, a list per row."""
        return [[row[name] for name in names] for row in self]

    def shuffled(self, seed: int) -> "ShardRows":
        """The rows in a random order that depends on the seed and their number alone."""
        order = np.random.default_rng(seed).permutation(len(self))
        return ShardRows(self._columns, order if self._indices is None else self._indices[order])

    def _own(self) -> pa.Table:
        return self._columns if self._indices is None else self._columns.take(pa.array(self._indices))


@dataclass(frozen=True)
class PlannedShards:
    """What ``source.parquet`` plans.

    Attributes:
        sources: rows, those that are refused included.
        refused: the refused ones, with the columns of ``quarantine.parquet``.
        attributes: names of the attribute columns.
        metadata: of the manifest.
        names: of the shards, sorted.
    """

    sources: int
    refused: pa.Table
    attributes: tuple[str, ...]
    metadata: Mapping[str, str]
    names: tuple[str, ...]
    _columns: pa.Table
    _order: NDArray[np.int32]
    _ends: NDArray[np.int64]

    def __iter__(self) -> Iterator[tuple[str, ShardRows]]:
        """Each shard and its rows, in the order of ``source.parquet``."""
        start = 0
        for name, end in zip(self.names, self._ends.tolist(), strict=True):
            yield name, ShardRows(self._columns, self._order[start:end])
            start = end

    def refusals(self) -> Iterator[dict[str, str]]:
        """The refused rows as dictionaries."""
        for batch in self.refused.to_batches():
            yield from batch.to_pylist()


def read_planned(path: Address, columns: Sequence[str], labels: bool = False) -> PlannedShards:
    """Read ``source.parquet``, a batch at a time.

    Args:
        path: the file to read.
        columns: those of the rows that are needed; the key is part of the SHA-256.
        labels: whether the attribute columns are needed too.

    Raises:
        UserError: the file is missing or is not a manifest.
    """
    header = manifest.read(path, [])
    columns = [*columns, *(header.attributes if labels else ())]
    codes = dict[str, int]()
    shards, usable, refused = list[NDArray[np.int32]](), list[pa.RecordBatch](), list[pa.RecordBatch]()
    needed = dict.fromkeys([*columns, "shard", *manifest.QUARANTINE_FIELDS.names])
    for batch in manifest.batches(path, list(needed)):
        refused.append(batch.filter(pc.is_valid(batch["reason"])).select(manifest.QUARANTINE_FIELDS.names))
        batch = batch.filter(pc.is_valid(batch["shard"]))
        names = batch["shard"].dictionary_encode()
        numbers = [codes.setdefault(name, len(codes)) for name in names.dictionary.to_pylist()]
        shards.append(np.array(numbers, np.int32)[names.indices.to_numpy()])
        usable.append(pa.RecordBatch.from_pydict({name: _compact(name, batch[name]) for name in columns}))
    order, ends = _grouped(shards, codes)
    shards.clear()
    return PlannedShards(
        sources=header.table.num_rows,
        refused=pa.Table.from_batches(refused, manifest.QUARANTINE_FIELDS),
        attributes=header.attributes,
        metadata=header.metadata,
        names=tuple(sorted(codes)),
        _columns=combined(usable, columns),
        _order=order,
        _ends=ends,
    )


def _compact(name: str, values: pa.Array) -> pa.Array:
    if name in _HEXADECIMAL:
        data = pa.py_buffer(bytes.fromhex("".join(values.to_pylist())))
        return pa.FixedSizeBinaryArray.from_buffers(pa.binary(_HEXADECIMAL[name]), len(values), [None, data])
    return coded(values, _CODED[name]) if name in _CODED else values


def _grouped(
    shards: list[NDArray[np.int32]], codes: Mapping[str, int]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The rows in the order of their shards' names, and where in it each shard ends."""
    ranks = np.empty(len(codes), np.int32)
    ranks[[codes[name] for name in sorted(codes)]] = np.arange(len(codes))
    numbers = ranks[np.concatenate([np.empty(0, np.int32), *shards])]
    order = np.argsort(numbers, kind="stable").astype(np.int32)
    return order, np.cumsum(np.bincount(numbers, minlength=len(codes)))
