"""The shards: splits, what was refused, some faces with masks, and where the face regions lie."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from common import manifest
from common.errors import UserError
from common.layout import SPLITS, Layout
from common.page.images import Presence, face_and_mask, presence
from common.sampling import evenly_spaced
from common.shards import (
    BrokenSample,
    decode_cell_counts,
    decode_face,
    decode_mask,
    decode_metadata,
    extent_of,
    read_member,
    read_sample,
)

SHOWN: Final = 12
"""Faces shown with their masks."""

SIDE: Final = 160
"""Of a shown face, in pixels."""

PRESENCE_SAMPLES: Final = 300
"""Samples whose per-cell class counts are averaged."""


@dataclass(frozen=True)
class Split:
    """Counts of one split; ``identities`` is None where none is known."""

    name: str
    faces: int
    labelled: int
    identities: int | None
    shards: int


@dataclass(frozen=True)
class Dataset:
    """The manifests of a set.

    Attributes:
        layout: where it lies. name: of the data set. root: the folder of photos.
        samples: the manifest of samples. labels: int8 (N, A), 0 or 1, -1 where unknown.
        splits: those that have samples. sources: inputs in all, None if unknown.
        refused: (reason, inputs), most first.
    """

    layout: Layout
    name: str
    root: str
    samples: manifest.Manifest
    labels: NDArray[np.int8]
    splits: Sequence[Split]
    sources: int | None
    refused: Sequence[tuple[str, int]]

    def positions(self, split: str) -> NDArray[np.int64]:
        """The rows of one split in the manifest of samples."""
        return np.flatnonzero(np.array(self.samples.table["split"].to_pylist(), np.str_) == split)

    def labelled_test_faces(self) -> int:
        """Test faces with a label."""
        return next((split.labelled for split in self.splits if split.name == "test"), 0)


@dataclass(frozen=True)
class Face:
    """A sample: uint8 RGB (S, S, 3), mask uint8 (S, S), and its metadata."""

    key: str
    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    metadata: Mapping[str, Any]


def read_dataset(layout: Layout, name: str, root: str) -> Dataset:
    """Read the manifests; `name` and `root` hold where they do not say.

    Raises:
        UserError: there are no finished shards.
    """
    samples = manifest.read(layout.require_samples())
    source = manifest.read(layout.source) if layout.source.is_file() else None
    refused = Counter[str]()
    if layout.quarantine.is_file():
        refused.update(manifest.read(layout.quarantine, ["reason"]).table["reason"].to_pylist())
    columns = [np.asarray(samples.table[name].fill_null(-1)).astype(np.int8) for name in samples.attributes]
    labels = np.stack(columns, axis=1) if columns else np.empty((samples.table.num_rows, 0), np.int8)
    metadata = {**samples.metadata, **(source.metadata if source else {})}
    return Dataset(
        layout,
        metadata.get("dataset", name),
        metadata.get("root", root),
        samples,
        labels,
        _splits(samples, labels),
        source.table.num_rows if source else None,
        sorted(refused.items(), key=lambda item: (-item[1], item[0])),
    )


def _splits(samples: manifest.Manifest, labels: NDArray[np.int8]) -> list[Split]:
    labelled = np.asarray((labels >= 0).any(axis=1))
    names, shards, identities = (
        np.array(samples.table[column].to_pylist(), object) for column in ("split", "shard", "identity")
    )
    splits = []
    for name in SPLITS:
        rows = names == name
        if rows.any():
            people = set(identities[rows]) - {None}
            counts = int(rows.sum()), int(labelled[rows].sum()), len(people) or None, len(set(shards[rows]))
            splits.append(Split(name, *counts))
    return splits


def read_face(dataset: Dataset, position: int) -> Face:
    """The sample in one row of the manifest.

    Raises:
        UserError: the shard does not hold what the manifest lists.
    """
    row = dataset.samples.table.slice(position, 1).to_pylist()[0]
    with _sample_named(dataset, row):
        members = read_sample(dataset.layout.shards, row)
        return Face(
            key=row["key"],
            image=decode_face(members["jpg"]),
            mask=decode_mask(members["mask.png"]),
            metadata=decode_metadata(members["json"]),
        )


@contextmanager
def _sample_named(dataset: Dataset, row: Mapping[str, Any]) -> Iterator[None]:
    try:
        yield
    except BrokenSample as error:
        raise UserError(
            f"{dataset.layout.shards / row['shard']}, sample {row['key']}: {error}; "
            "run `python -m pipeline.verify`"
        ) from error


@dataclass(frozen=True)
class FaceGrid:
    """Some faces of a split, each beside its mask: (image, key); and metadata of one about its parser."""

    split: str
    images: Sequence[tuple[str, str]]
    parser: Mapping[str, Any]


def face_grid(dataset: Dataset) -> FaceGrid | None:
    """Faces of the test split, or of the first that has some, evenly spaced; None without samples."""
    names = [split.name for split in dataset.splits]
    split = next((name for name in ("test", "train", *SPLITS) if name in names), None)
    if split is None:
        return None
    positions = dataset.positions(split)
    faces = [read_face(dataset, int(positions[i])) for i in evenly_spaced(SHOWN, len(positions))]
    images = [(face_and_mask(face.image, face.mask, SIDE), face.key) for face in faces]
    return FaceGrid(split, images, faces[0].metadata)


def class_presence(dataset: Dataset) -> Presence | None:
    """Where the face regions lie, over samples that are evenly spaced; None without samples."""
    positions = evenly_spaced(PRESENCE_SAMPLES, dataset.samples.table.num_rows)
    if not len(positions):
        return None
    counts = []
    for row in dataset.samples.table.take(positions).to_pylist():
        with _sample_named(dataset, row):
            data = read_member(dataset.layout.shards, row["shard"], extent_of(row, "parts.npy"))
            counts.append(decode_cell_counts(data))
    return presence(np.stack(counts))
