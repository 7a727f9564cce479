"""The samples that the manifest lists, by split, with their labels and where their bytes lie."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from common import manifest
from common.layout import Layout
from common.members import BrokenSample
from common.shards import Extent
from common.storage import Address
from common.tables import add_parquet, batches, connect, quoted
from training.data.index import BLOCK, MEMBERS, Column, Text, read_index


@dataclass(frozen=True)
class Samples:
    """The samples of some splits, as the manifest lists them.

    Attributes:
        root: folder or fsspec address of the shards.
        keys: sample keys.
        shards: shard path of each sample, below `root`.
        extents: by member name, without ``json``, and with features only where they are stored, uint32 (N, 3)
            of offset in blocks of 512 bytes, size in bytes, and CRC-32, which is 0 where it is not known.
        attribute_names: names of the label columns.
        attributes: int8 (N, A), 0 or 1, -1 where unknown.
        identities: identity of each sample, or None where it is unknown.
    """

    root: Address
    keys: Sequence[str]
    shards: Sequence[str]
    extents: dict[str, NDArray[np.uint32]]
    attribute_names: tuple[str, ...]
    attributes: NDArray[np.int8]
    identities: Sequence[str | None]

    def __len__(self) -> int:
        return len(self.keys)

    def extent(self, member: str, index: int) -> Extent:
        """Where the bytes of a member of one sample lie in its shard."""
        blocks, size, _ = self.extents[member][index].tolist()
        return Extent(blocks * BLOCK, size)

    def check(self, member: str, index: int, data: bytes) -> bytes:
        """`data`, which was read as a member of one sample.

        Raises:
            BrokenSample: its CRC-32 is not that of what was written.
        """
        checksum = int(self.extents[member][index, 2])
        if checksum and crc32(data) != checksum:
            raise BrokenSample(f"{member}: CRC-32 {crc32(data)}, written with {checksum}")
        return data

    def take(self, indices: NDArray[np.int64]) -> "Samples":
        """Only the samples at `indices`, in that order."""
        return Samples(
            self.root,
            _taken(self.keys, indices),
            _taken(self.shards, indices),
            {name: extent[indices] for name, extent in self.extents.items()},
            self.attribute_names,
            self.attributes[indices],
            _taken(self.identities, indices),
        )

    def labelled(self) -> "Samples":
        """Only the samples with at least one known attribute."""
        return self.take(np.flatnonzero((self.attributes >= 0).any(axis=1)))


def read_samples(layout: Layout, splits: Sequence[str], folder: Path | None = None) -> Samples:
    """The samples of the given splits.

    Args:
        layout: the shards and their manifest.
        splits: those that are read.
        folder: for the index that all processes of a machine share, see `training.data.index`; None: the
            index is this process's own.

    Raises:
        UserError: there is no manifest.
    """
    table = read_index(layout, splits, folder)
    names = tuple(filter(None, table.schema.metadata[b"attributes"].decode().split("\n")))
    columns = {name: table[name].combine_chunks() for name in table.column_names}

    def matrix(name: str, width: int) -> NDArray[Any]:
        return columns[name].flatten().to_numpy().reshape(-1, width)

    return Samples(
        root=layout.shards,
        keys=Column[str](columns["key"]),
        shards=Column[str](columns["shard"]),
        extents={name: matrix(name, 3) for name in MEMBERS if name in columns},
        attribute_names=names,
        attributes=matrix("labels", len(names)) if names else np.zeros((table.num_rows, 0), np.int8),
        identities=Column[str | None](columns["identity"]),
    )


def _taken(strings: Sequence[Text], indices: NDArray[np.int64]) -> Sequence[Text]:
    if isinstance(strings, Column):
        return strings.take(indices)
    return [strings[i] for i in indices]


def pixels_hash(layout: Layout) -> str:
    """SHA-256 of what stage 1 reads: which samples it has, for training or validation, and their bytes.

    Labels do not count, and so not the difference between ``train`` and ``unlabelled``.
    """
    path, digest = layout.require_samples(), hashlib.sha256()
    names, attributes = manifest.column_names(path)
    members = [name for name in names if name.endswith((".size", ".crc32")) and not name.startswith("json.")]
    columns = ["key", "shard", *(name for name in members if name not in attributes)]
    fields = ", ".join(f"coalesce({quoted(name)}::VARCHAR, '')" for name in columns)
    lines = f"""
        SELECT concat_ws(' ', {fields}, split = 'val') AS line
        FROM samples WHERE split <> 'test' ORDER BY shard, "jpg.offset", key
    """
    with connect() as database:
        add_parquet(database, "samples", path)
        for batch in batches(database, lines):
            digest.update("\n".join([*batch["line"].to_pylist(), ""]).encode())
    return digest.hexdigest()
