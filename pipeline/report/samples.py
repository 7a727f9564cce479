"""What the samples look like: some of them, evenly spread over the whole set."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from contract import manifest
from contract.classes import CLASS_COLOURS, NUM_CLASSES
from contract.errors import UserError
from contract.layout import Layout
from contract.shards import BrokenSample, decode_face, decode_facts, decode_mask, decode_parts
from contract.storage import Address

MEASURED: Final = 2000
"""Samples whose part counts are looked at."""

AVERAGED: Final = 400
"""Samples whose faces and masks are averaged."""

SHOWN: Final = 12
"""Faces of each kind that are shown."""

SEED: Final = 0
"""Of the faces that are shown by chance."""


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
    """Read some samples of a set by their offsets; the same set gives the same result.

    Raises:
        UserError: there are no samples, or one is not what the manifest says.
    """
    members = ("jpg", "mask.png", "parts.npy", "json")
    places = [f"{member}.{what}" for member in members for what in ("offset", "size")]
    table = manifest.read(layout.require_samples(), ["key", "shard", "confidence", *places]).table
    if not table.num_rows:
        raise UserError(f"{layout.samples} lists no sample, so there is nothing to show")
    reader = _Reader(layout, table)

    rows = _spread(table.num_rows, MEASURED)
    counts = np.stack([decode_parts(data) for data in reader.members(rows, "parts.npy")])
    averages = _spread(table.num_rows, AVERAGED)
    faces = (decode_face(data) for data in reader.members(averages, "jpg"))
    masks = (decode_mask(data) for data in reader.members(averages, "mask.png"))
    kinds = _kinds(np.asarray(table["confidence"].fill_null(0.0)))
    return Looks(
        measured=len(rows),
        shares=_shares(counts),
        presence=(counts > 0).mean(axis=0),
        averaged=len(averages),
        face=_mean(faces),
        mask=_mean(CLASS_COLOURS[mask].astype(np.uint8) for mask in masks),
        shown={kind: reader.shown(rows) for kind, rows in kinds.items()},
        parser={
            name: value
            for name, value in decode_facts(next(reader.members(rows[:1], "json"))).items()
            if name.startswith("parser")
        },
    )


def _spread(total: int, wanted: int) -> NDArray[np.int64]:
    """`wanted` positions of `total`, or all, evenly spread."""
    return np.unique(np.linspace(0, total - 1, min(total, wanted)).round().astype(np.int64))


def _shares(counts: NDArray[np.uint16]) -> NDArray[np.float64]:
    pixels = counts.sum(axis=(1, 2), dtype=np.int64)
    shares: NDArray[np.float64] = pixels / pixels.sum(axis=1, keepdims=True)
    assert shares.shape[1] == NUM_CLASSES
    return shares


def _mean(pictures: Iterator[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """The mean of uint8 pictures of one size, rounded; integer sums, so that it is the same everywhere."""
    total, count = next(pictures).astype(np.int64), 1
    for picture in pictures:
        total += picture
        count += 1
    return ((total + count // 2) // count).astype(np.uint8)


def _kinds(confidence: NDArray[np.float32]) -> dict[str, NDArray[np.int64]]:
    order = np.argsort(confidence, kind="stable")
    count = min(SHOWN, len(order))
    chance = np.random.default_rng(SEED).choice(len(order), count, replace=False)
    return {"best": order[::-1][:count], "worst": order[:count], "random": np.sort(chance)}


class _Reader:
    """Reads members of samples by their offsets, shard by shard, and hands them over in the order asked."""

    def __init__(self, layout: Layout, table: pa.Table) -> None:
        self._root, self._table, self._samples = layout.shards, table, layout.samples

    def members(self, rows: NDArray[np.int64], member: str) -> Iterator[bytes]:
        """The bytes of a member of each row."""
        chosen = self._table.select(["shard", f"{member}.offset", f"{member}.size"]).take(pa.array(rows))
        shards, offsets, sizes = (column.to_pylist() for column in chosen.columns)
        of_shard: dict[str, list[int]] = defaultdict(list)
        for number, shard in enumerate(shards):
            of_shard[shard].append(number)
        found: dict[int, bytes] = {}
        for shard, numbers in of_shard.items():
            with self._opened(self._root / shard) as stream:
                for number in numbers:
                    stream.seek(offsets[number])
                    found[number] = stream.read(sizes[number])
        return (found[number] for number in range(len(rows)))

    def _opened(self, tar: Address) -> Any:
        try:
            return tar.open("rb")
        except OSError as error:
            raise UserError(
                f"{tar}: cannot be read ({error.strerror or error}), but {self._samples} names it; "
                "run `python -m pipeline.verify`"
            ) from error

    def shown(self, rows: NDArray[np.int64]) -> list[Shown]:
        """The faces of `rows`."""
        chosen = self._table.select(["key", "confidence"]).take(pa.array(rows)).to_pylist()
        faces, masks = self.members(rows, "jpg"), self.members(rows, "mask.png")
        try:
            return [
                Shown(row["key"], decode_face(face), decode_mask(mask), row["confidence"] or 0.0)
                for row, face, mask in zip(chosen, faces, masks, strict=True)
            ]
        except BrokenSample as error:
            raise UserError(f"{self._root}: {error}; run `python -m pipeline.verify`") from error
