"""The samples that the manifest lists, by split, with their labels and where their bytes lie."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from common import manifest
from common.layout import Layout
from common.shards import FEATURE_MEMBERS, BrokenSample, Extent
from common.storage import Address


@dataclass(frozen=True)
class Samples:
    """The samples of some splits, as the manifest lists them.

    Attributes:
        root: folder or fsspec address of the shards.
        keys: sample keys.
        shards: shard path of each sample, below `root`.
        extents: by member name, without ``json``, and with features only where they are stored, int64 (N, 3)
            of offset, size and CRC-32, which is -1 where it is not known.
        attribute_names: names of the label columns.
        attributes: int8 (N, A), 0 or 1, -1 where unknown.
        identities: identity of each sample, or None where it is unknown.
    """

    root: Address
    keys: Sequence[str]
    shards: Sequence[str]
    extents: dict[str, NDArray[np.int64]]
    attribute_names: tuple[str, ...]
    attributes: NDArray[np.int8]
    identities: Sequence[str | None]

    def __len__(self) -> int:
        return len(self.keys)

    def extent(self, member: str, index: int) -> Extent:
        """Where the bytes of a member of one sample lie in its shard."""
        offset, size, _ = self.extents[member][index]
        return Extent(int(offset), int(size))

    def check(self, member: str, index: int, data: bytes) -> bytes:
        """`data`, which was read as a member of one sample.

        Raises:
            BrokenSample: its CRC-32 is not that of what was written.
        """
        checksum = int(self.extents[member][index, 2])
        if checksum >= 0 and crc32(data) != checksum:
            raise BrokenSample(f"{member}: CRC-32 {crc32(data)}, written with {checksum}")
        return data

    def take(self, indices: NDArray[np.int64]) -> "Samples":
        """Only the samples at `indices`, in that order."""
        return Samples(
            self.root,
            [self.keys[i] for i in indices],
            [self.shards[i] for i in indices],
            {name: extent[indices] for name, extent in self.extents.items()},
            self.attribute_names,
            self.attributes[indices],
            [self.identities[i] for i in indices],
        )

    def labelled(self) -> "Samples":
        """Only the samples with at least one known attribute."""
        return self.take(np.flatnonzero((self.attributes >= 0).any(axis=1)))


def read_samples(layout: Layout, splits: Sequence[str]) -> Samples:
    """The samples of the given splits.

    Raises:
        UserError: there is no manifest.
    """
    listed = manifest.read(layout.require_samples())
    table = listed.table.filter(pc.is_in(listed.table["split"], pa.array(splits, pa.string())))
    labels = [np.asarray(table[name].fill_null(-1)).astype(np.int8) for name in listed.attributes]
    return Samples(
        root=layout.shards,
        keys=table["key"].to_pylist(),
        shards=table["shard"].to_pylist(),
        extents={
            name: np.stack([_column(table, f"{name}.{field}") for field in manifest.MEMBER_COLUMNS], axis=1)
            for name in ("jpg", "mask.png", "parts.npy", *FEATURE_MEMBERS)
            if f"{name}.offset" in table.column_names
        },
        attribute_names=listed.attributes,
        attributes=np.stack(labels, axis=1) if labels else np.empty((table.num_rows, 0), np.int8),
        identities=table["identity"].to_pylist(),
    )


def _column(table: pa.Table, name: str) -> NDArray[np.int64]:
    """A column of the manifest, int64 (N,), -1 where it has no value: old manifests hold no checksums."""
    if name not in table.column_names:
        return np.full(table.num_rows, -1, np.int64)
    return np.asarray(table[name].fill_null(-1))


def pixels_hash(layout: Layout) -> str:
    """SHA-256 of what stage 1 reads: which samples it has, for training or validation, and their bytes.

    Labels do not count, and so not the difference between ``train`` and ``unlabelled``.
    """
    listed = manifest.read(layout.require_samples())
    table = listed.table.drop_columns(list(listed.attributes))
    table = table.filter(pc.not_equal(table["split"], "test"))
    validates = pc.equal(table["split"], "val")
    members = [name for name in table.column_names if name.endswith((".size", ".crc32"))]
    columns = [table[name] for name in ("key", "shard", *members) if not name.startswith("json.")]
    text = [pc.fill_null(pc.cast(column, pa.string()), "") for column in (*columns, validates)]
    lines = pc.binary_join_element_wise(*text, "\n", " ")
    return hashlib.sha256("".join(lines.to_pylist()).encode()).hexdigest()


def manifest_hash(layout: Layout) -> str:
    """SHA-256 of ``shards.parquet``, which identifies the shards that a checkpoint was trained on."""
    return hashlib.sha256(layout.require_samples().read_bytes()).hexdigest()
