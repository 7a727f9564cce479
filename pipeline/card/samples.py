"""What the samples of a set look like, from some of them, evenly spaced over the whole set."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from common import manifest
from common.classes import CLASS_COLOURS
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
        counts: uint16 (N, G, G, 19), the per-cell class counts of the measured samples.
        averaged: samples that the two averages are of.
        face, mask: uint8 RGB (S, S, 3), the average face, and the average of the masks' colours.
        faces: by kind: ``best``, ``worst`` and ``random``, by confidence.
        parser: metadata of one sample about its parser.
    """

    counts: NDArray[np.uint16]
    averaged: int
    face: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    faces: dict[str, list[ShownFace]]
    parser: dict[str, Any]


def summarize_samples(layout: Layout) -> SampleSummary:
    """Read some samples of a set, each once and by its offsets; the same set gives the same result.

    Raises:
        UserError: there are no samples, or one is not what the manifest says.
    """
    confidence = manifest.read(layout.require_samples(), ["confidence"]).table["confidence"]
    if not len(confidence):
        raise UserError(f"{layout.samples} lists no sample, so there is nothing to show")
    kinds = _kinds(np.asarray(confidence.fill_null(0.0)))
    displayed = {position for positions in kinds.values() for position in positions}
    measured, averaged = (
        set(evenly_spaced(count, len(confidence)).tolist()) for count in (MEASURED, AVERAGED)
    )
    counts: list[NDArray[np.uint16]] = []
    faces: dict[int, ShownFace] = {}
    parser: dict[str, Any] = {}
    # Sums of integers are the same everywhere.
    face_sum, mask_sum = np.zeros((), np.int64), np.zeros((), np.int64)
    for position, row in _rows(layout.samples, measured | averaged | displayed):
        try:
            members = read_sample(layout.shards, row)
            if position in measured:
                counts.append(decode_cell_counts(members["parts.npy"]))
                _check_shape(counts[-1].shape, counts[0].shape)
                parser = parser or decode_metadata(members["json"])
            if position in averaged | displayed:
                face, mask = decode_face(members["jpg"]), decode_mask(members["mask.png"])
                _check_shape(face.shape, face_sum.shape or face.shape)
                _check_shape(mask.shape, face.shape[:2])
                if position in averaged:
                    face_sum, mask_sum = face_sum + face, mask_sum + CLASS_COLOURS[mask]
                if position in displayed:
                    faces[position] = ShownFace(row["key"], face, mask, row["confidence"] or 0.0)
        except (BrokenSample, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise UserError(
                f"{layout.shards / row['shard']}: {row['key']} cannot be read ({reason}), but "
                f"{layout.samples} lists it; run `python -m pipeline.verify`"
            ) from error
    return SampleSummary(
        counts=np.stack(counts),
        averaged=len(averaged),
        face=np.rint(face_sum / len(averaged)).astype(np.uint8),
        mask=np.rint(mask_sum / len(averaged)).astype(np.uint8),
        faces={kind: [faces[i] for i in positions] for kind, positions in kinds.items()},
        parser={name: value for name, value in parser.items() if name.startswith("parser")},
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
