"""What the samples of a set look like, from some of them, evenly spaced over the whole set."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from common import manifest
from common.classes import CLASS_COLOURS
from common.errors import UserError
from common.layout import Layout
from common.page.images import Presence, presence
from common.sampling import evenly_spaced
from common.shards import (
    MEMBERS,
    BrokenSample,
    decode_cell_counts,
    decode_face,
    decode_mask,
    decode_metadata,
    read_sample,
)
from common.storage import Address

MEASURED: Final = 2000
"""Samples whose per-cell class counts are read."""

AVERAGED: Final = 400
"""Samples whose faces and masks are averaged."""

SHOWN: Final = 12
"""Faces of each kind that are shown."""

SEED: Final = 0
"""Of the random selection of faces."""

EXTENTS: Final = tuple(f"{name}.{what}" for name in MEMBERS for what in ("offset", "size"))
"""Columns with the offset and the size of each member of a sample."""


@dataclass(frozen=True)
class ShownFace:
    """A face on the page: uint8 RGB (S, S, 3), its mask, uint8 (S, S), and the parser's confidence."""

    key: str
    face: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    confidence: float


@dataclass(frozen=True)
class SampleSummary:
    """What was read.

    Attributes:
        shares: float64 (N, 19), share of a face's pixels that each class has.
        presence: where the classes lie, over the same samples.
        averaged: samples that the two averages are of.
        face, mask: uint8 RGB (S, S, 3), the average face, and the average of the masks' colours.
        faces: by kind: ``best``, ``worst`` and ``random``, by confidence.
        parser: metadata of one sample about its parser.
    """

    shares: NDArray[np.float64]
    presence: Presence
    averaged: int
    face: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    faces: dict[str, list[ShownFace]]
    parser: dict[str, Any]


@dataclass
class _Mean:
    """The mean of uint8 images of one shape; the sum is of integers, so that it is the same everywhere."""

    total: NDArray[np.int64] | None = None
    count: int = 0

    def add(self, image: NDArray[np.uint8]) -> None:
        total = np.zeros(image.shape, np.int64) if self.total is None else self.total
        _check_shape(image.shape, total.shape)
        self.total, self.count = total + image, self.count + 1

    def value(self) -> NDArray[np.uint8]:
        assert self.total is not None  # at least one sample is averaged
        return ((self.total + self.count // 2) // self.count).astype(np.uint8)


@dataclass
class _Reader:
    """Collects what the page needs of each sample, by its position in the manifest."""

    measured: set[int]
    averaged: set[int]
    displayed: set[int]
    cell_counts: list[NDArray[np.uint16]] = field(default_factory=list)
    parser: dict[str, Any] = field(default_factory=dict)
    face: _Mean = field(default_factory=_Mean)
    mask: _Mean = field(default_factory=_Mean)
    faces: dict[int, ShownFace] = field(default_factory=dict)

    def add(self, position: int, row: dict[str, Any], members: dict[str, bytes]) -> None:
        """Take what is needed of one sample.

        Raises:
            BrokenSample: a member does not decode, or its shape is not that of the samples before it.
        """
        if position in self.measured:
            self.cell_counts.append(decode_cell_counts(members["parts.npy"]))
            _check_shape(self.cell_counts[-1].shape, self.cell_counts[0].shape)
            self.parser = self.parser or decode_metadata(members["json"])
        if position in self.averaged | self.displayed:
            face, mask = decode_face(members["jpg"]), decode_mask(members["mask.png"])
            _check_shape(mask.shape, face.shape[:2])
            if position in self.averaged:
                self.face.add(face)
                self.mask.add(CLASS_COLOURS[mask])
            if position in self.displayed:
                self.faces[position] = ShownFace(row["key"], face, mask, row["confidence"] or 0.0)


def summarize_samples(layout: Layout) -> SampleSummary:
    """Read some samples of a set, each once and by its offsets; the same set gives the same result.

    Raises:
        UserError: there are no samples, or one is not what the manifest says.
    """
    confidence = manifest.read(layout.require_samples(), ["confidence"]).table["confidence"]
    if not len(confidence):
        raise UserError(f"{layout.samples} lists no sample, so there is nothing to show")
    kinds = _kinds(np.asarray(confidence.fill_null(0.0)))
    reader = _Reader(
        measured=set(evenly_spaced(MEASURED, len(confidence)).tolist()),
        averaged=set(evenly_spaced(AVERAGED, len(confidence)).tolist()),
        displayed={position for positions in kinds.values() for position in positions},
    )
    for position, row in _rows(layout.samples, reader.measured | reader.averaged | reader.displayed):
        try:
            reader.add(position, row, read_sample(layout.shards, row))
        except (BrokenSample, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise UserError(
                f"{layout.shards / row['shard']}: {row['key']} cannot be read ({reason}), but "
                f"{layout.samples} lists it; run `python -m pipeline.verify`"
            ) from error
    counts = np.stack(reader.cell_counts)
    pixels = counts.sum(axis=(1, 2), dtype=np.int64)
    return SampleSummary(
        shares=pixels / pixels.sum(axis=1, keepdims=True),
        presence=presence(counts),
        averaged=reader.face.count,
        face=reader.face.value(),
        mask=reader.mask.value(),
        faces={kind: [reader.faces[i] for i in positions] for kind, positions in kinds.items()},
        parser={name: value for name, value in reader.parser.items() if name.startswith("parser")},
    )


def _check_shape(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if shape != expected:
        raise BrokenSample(f"its shape is {shape}, not {expected} as that of the samples before it")


def _kinds(confidence: NDArray[np.float32]) -> dict[str, list[int]]:
    """Positions in the manifest of the faces that are shown, by kind."""
    order = np.argsort(confidence, kind="stable")
    count = min(SHOWN, len(order))
    random = np.random.default_rng(SEED).choice(len(order), count, replace=False)
    return {
        "best": order[::-1][:count].tolist(),
        "worst": order[:count].tolist(),
        "random": sorted(random.tolist()),
    }


def _rows(path: Address, positions: set[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(position, row) of some samples, in the order of the manifest, which is that of the tars."""
    wanted, start = np.array(sorted(positions)), 0
    for batch in manifest.batches(path, ["key", "shard", "confidence", *EXTENTS]):
        here = wanted[(wanted >= start) & (wanted < start + batch.num_rows)]
        yield from zip(here.tolist(), batch.take(pa.array(here - start)).to_pylist(), strict=True)
        start += batch.num_rows
