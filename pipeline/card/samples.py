"""What the samples look like: some of them, evenly spread over the whole set."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from common import manifest
from common.classes import CLASS_COLOURS, NUM_CLASSES
from common.errors import UserError
from common.layout import Layout
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
"""Samples whose part counts are looked at."""

AVERAGED: Final = 400
"""Samples whose faces and masks are averaged."""

SHOWN: Final = 12
"""Faces of each kind that are shown."""

SEED: Final = 0
"""Of the faces that are shown by chance."""


PLACES: Final = tuple(f"{name}.{what}" for name in MEMBERS for what in ("offset", "size"))
"""Columns that say where a sample's members lie."""


@dataclass(frozen=True)
class Shown:
    """A face on the page: uint8 RGB (S, S, 3), its mask, uint8 (S, S), and the parser's confidence."""

    key: str
    face: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    confidence: float


@dataclass(frozen=True)
class Looks:
    """What was read.

    Attributes:
        measured: samples that `shares` and `presence` are of.
        shares: float64 (N, 19), share of a face's pixels that each class has.
        presence: float64 (G, G, 19), share of the samples that have a class in a cell.
        averaged: samples that the two averages are of.
        face, mask: uint8 RGB (S, S, 3), the average face, and the average of the masks' colours.
        shown: faces by kind: ``best``, ``worst`` and ``random``, by confidence.
        parser: facts of one sample about its parser.
    """

    measured: int
    shares: NDArray[np.float64]
    presence: NDArray[np.float64]
    averaged: int
    face: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    shown: dict[str, list[Shown]]
    parser: dict[str, Any]


def look(layout: Layout) -> Looks:
    """Read some samples of a set, each once and by its offsets; the same set gives the same result.

    Raises:
        UserError: there are no samples, or one is not what the manifest says.
    """
    confidence = manifest.read(layout.require_samples(), ["confidence"]).table["confidence"]
    if not len(confidence):
        raise UserError(f"{layout.samples} lists no sample, so there is nothing to show")
    measured, averaged = evenly_spaced(MEASURED, len(confidence)), evenly_spaced(AVERAGED, len(confidence))
    kinds = _kinds(np.asarray(confidence.fill_null(0.0)))
    in_parts, in_mean = set(measured.tolist()), set(averaged.tolist())
    in_grid = {row for rows in kinds.values() for row in rows.tolist()}
    parts: list[NDArray[np.uint16]] = []
    shown, parser = dict[int, Shown](), dict[str, Any]()
    face_sum, mask_sum = _Sum(), _Sum()
    for position, row in _rows(layout.samples, in_parts | in_mean | in_grid):
        try:
            members = read_sample(layout.shards, row)
            if position in in_parts:
                parts.append(decode_cell_counts(members["parts.npy"]))
                _check_shape(parts[-1].shape, parts[0].shape)
                parser = parser or decode_metadata(members["json"])
            if position in in_mean or position in in_grid:
                face, mask = decode_face(members["jpg"]), decode_mask(members["mask.png"])
                if position in in_mean:
                    face_sum.add(face)
                    mask_sum.add(CLASS_COLOURS[mask])
                if position in in_grid:
                    _check_shape(mask.shape, face.shape[:2])
                    shown[position] = Shown(row["key"], face, mask, row["confidence"] or 0.0)
        except (BrokenSample, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise UserError(
                f"{layout.shards / row['shard']}: {row['key']} cannot be read ({reason}), but "
                f"{layout.samples} names it; run `python -m pipeline.verify`"
            ) from error
    counts = np.stack(parts)
    return Looks(
        measured=len(counts),
        shares=_shares(counts),
        presence=(counts > 0).mean(axis=0),
        averaged=len(averaged),
        face=face_sum.mean(),
        mask=mask_sum.mean(),
        shown={kind: [shown[row] for row in rows.tolist()] for kind, rows in kinds.items()},
        parser={name: value for name, value in parser.items() if name.startswith("parser")},
    )


def _shares(counts: NDArray[np.uint16]) -> NDArray[np.float64]:
    pixels = counts.sum(axis=(1, 2), dtype=np.int64)
    shares: NDArray[np.float64] = pixels / pixels.sum(axis=1, keepdims=True)
    assert shares.shape[1] == NUM_CLASSES
    return shares


class _Sum:
    """The sum of arrays of one shape; of integers, so that it is the same everywhere."""

    def __init__(self) -> None:
        self._total: NDArray[np.int64] | None = None
        self._count = 0

    def add(self, picture: NDArray[np.uint8]) -> None:
        """Add a uint8 picture.

        Raises:
            BrokenSample: it has not the size of those before it.
        """
        total = np.zeros(picture.shape, np.int64) if self._total is None else self._total
        _check_shape(picture.shape, total.shape)
        self._total, self._count = total + picture, self._count + 1

    def mean(self) -> NDArray[np.uint8]:
        """The rounded mean, uint8; there must be a picture."""
        assert self._total is not None
        return ((self._total + self._count // 2) // self._count).astype(np.uint8)


def _check_shape(shape: tuple[int, ...], before: tuple[int, ...]) -> None:
    if shape != before:
        raise BrokenSample(f"its shape is {shape}, that of the samples before it {before}")


def _kinds(confidence: NDArray[np.float32]) -> dict[str, NDArray[np.int64]]:
    order = np.argsort(confidence, kind="stable")
    count = min(SHOWN, len(order))
    chance = np.random.default_rng(SEED).choice(len(order), count, replace=False)
    return {"best": order[::-1][:count], "worst": order[:count], "random": np.sort(chance)}


def _rows(place: Address, positions: set[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(position, row) of some samples, in the order of the manifest, which is that of the tars."""
    wanted, start = np.array(sorted(positions)), 0
    for batch in manifest.batches(place, ["key", "shard", "confidence", *PLACES]):
        mine = wanted[(wanted >= start) & (wanted < start + batch.num_rows)]
        yield from zip(mine.tolist(), batch.take(pa.array(mine - start)).to_pylist(), strict=True)
        start += batch.num_rows
