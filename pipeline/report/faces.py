"""What the faces of a set look like, from a bounded share of them that is spread evenly over the tars.

All sums are of integers, so they do not depend on the order, and one sample is in memory at a time.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from contract import manifest
from contract.classes import CLASS_COLOURS, NUM_CLASSES
from contract.errors import UserError
from contract.layout import Layout
from contract.page.charts import face_picture, mask_picture
from contract.parts import merge_cells
from contract.progress import progress
from contract.shards import (
    MEMBERS,
    BrokenSample,
    Extent,
    decode_face,
    decode_facts,
    decode_mask,
    decode_parts,
    read_extent,
)
from contract.storage import Address
from pipeline.report.facts import Average, Counts, Faces, Picture

READ_AT_MOST: Final = 2000
"""Samples that are read for averages, areas and heat maps; a share near 1/2 is then known to 2 points."""

DRAWN: Final = 8
"""Samples that are shown as drawn at random."""

SIDE: Final = 192
"""Pixels a side of the average face and masks."""

SMALL_SIDE: Final = 96
"""Pixels a side of the average faces per attribute."""

SHOWN_SIDE: Final = 160
"""Pixels a side of a face in the grid."""

PATCHES: Final = 3
"""Patches a side, as the training's tasks cut them."""

AVERAGES: Final = 48
"""Attributes, most frequent first, whose average face is shown."""

LEAST_FACES: Final = 10
"""Faces that an average needs, or it would be a portrait."""

PLACES: Final = tuple(f"{name}.{what}" for name in MEMBERS for what in ("offset", "size"))


@dataclass
class _Sums:
    """Integer sums over the samples that were read."""

    labels: int
    samples: int = 0
    sizes: Counter[int] = field(default_factory=Counter)
    parsers: Counter[tuple[str, int, str]] = field(default_factory=Counter)
    areas: list[NDArray[np.float64]] = field(default_factory=list)
    cells: NDArray[np.int64] | None = None
    patches: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        self.face = np.zeros((SIDE, SIDE, 3), np.int64)
        self.classes = np.zeros((NUM_CLASSES, SIDE, SIDE), np.int64)
        self.with_label = np.zeros(self.labels, np.int64)
        self.labelled = np.zeros((self.labels, SMALL_SIDE, SMALL_SIDE, 3), np.int64)

    def add(self, members: Mapping[str, bytes], labels: NDArray[np.bool_]) -> None:
        """Add one sample; `labels`, bool (labels,), says in which averages its face goes.

        Raises:
            BrokenSample: a member does not decode, or its grid is not that of the others.
        """
        face, mask = decode_face(members["jpg"]), decode_mask(members["mask.png"])
        parts, facts = decode_parts(members["parts.npy"]), decode_facts(members["json"])
        if self.cells is None:
            self.cells = np.zeros(parts.shape, np.int64)
            if len(parts) % PATCHES == 0:
                self.patches = np.zeros((PATCHES, PATCHES, NUM_CLASSES), np.int64)
        if parts.shape != self.cells.shape:
            raise BrokenSample(f"parts on a grid of {len(parts)}, those before of {len(self.cells)}")
        self.samples += 1
        self.sizes[face.shape[0]] += 1
        name, size, sha256 = (facts.get(f"parser{what}") for what in ("", "_size", "_sha256"))
        self.parsers[str(name or ""), int(size or 0), str(sha256 or "")] += 1
        self.cells += parts > 0
        if self.patches is not None:
            self.patches += merge_cells(parts, PATCHES) > 0
        covered = parts.sum(axis=(0, 1), dtype=np.int64)
        self.areas.append(covered / max(1, covered.sum()))
        self.face += _resized(face, SIDE)
        small_mask = cv2.resize(mask, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)
        self.classes += small_mask == np.arange(NUM_CLASSES)[:, None, None]
        if labels.any():
            self.labelled[labels] += _resized(face, SMALL_SIDE)
            self.with_label += labels


def look(layout: Layout, counts: Counts) -> Faces | None:
    """Read some samples and say what they show; None if the set has no sample.

    Args:
        layout: where the shards lie.
        counts: of the manifests.

    Raises:
        UserError: a shard is missing or broken.
    """
    if not counts.samples:
        return None
    read = min(READ_AT_MOST, counts.samples)
    spread = {int(position) for position in np.arange(read) * counts.samples // read}
    some = np.random.default_rng(0).choice(counts.samples, min(DRAWN, counts.samples), replace=False)
    drawn = [int(position) for position in some]
    yes = counts.labels.yes.sum(axis=0)
    frequent = [int(i) for i in np.argsort(-yes, kind="stable")[:AVERAGES]]
    names = [counts.labels.names[i] for i in frequent]
    sums, pictures = _Sums(len(frequent)), dict[int, Picture]()
    shown = {*counts.lowest, *counts.highest, *drawn}
    bar = progress("card", len(spread | shown), "samples")
    for position, row, members in _read(layout, spread | shown, names):
        try:
            if position in spread:
                sums.add(members, np.array([row[name] == 1 for name in names], np.bool_))
            if position in shown:
                pair = decode_face(members["jpg"]), decode_mask(members["mask.png"])
                pictures[position] = Picture(row["key"], row["confidence"], mask_picture(*pair, SHOWN_SIDE))
        except BrokenSample as error:
            raise _broken(layout, row, error) from error
        bar.update(1)
    bar.close()
    least, most, random = ([pictures[i] for i in of] for of in (counts.lowest, counts.highest, drawn))
    return _faces(sums, frequent, least, most, random)


def _faces(
    sums: _Sums, frequent: list[int], least: list[Picture], most: list[Picture], drawn: list[Picture]
) -> Faces:
    count = sums.samples
    assert sums.cells is not None  # there is a sample
    colours = CLASS_COLOURS.astype(np.int64)
    mixture = np.einsum("chw,cd->hwd", sums.classes, colours)
    return Faces(
        samples=count,
        sizes=sums.sizes.most_common(),
        parsers=sorted(sums.parsers.items(), key=lambda item: (-item[1], item[0])),
        cells=sums.cells / count,
        patches=None if sums.patches is None else sums.patches / count,
        areas=np.stack(sums.areas),
        face=face_picture(_mean(sums.face, count), SIDE),
        mask=face_picture(_mean(mixture, count), SIDE),
        usual=face_picture(CLASS_COLOURS[sums.classes.argmax(axis=0)], SIDE),
        averages=[
            Average(attribute, int(faces), face_picture(_mean(total, int(faces)), SMALL_SIDE))
            for attribute, faces, total in zip(frequent, sums.with_label, sums.labelled, strict=True)
            if faces >= LEAST_FACES
        ],
        least=least,
        most=most,
        drawn=drawn,
    )


def _resized(face: NDArray[np.uint8], side: int) -> NDArray[np.int64]:
    return cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA).astype(np.int64)


def _mean(total: NDArray[np.int64], count: int) -> NDArray[np.uint8]:
    return ((total + count // 2) // count).astype(np.uint8)


def _read(
    layout: Layout, positions: Iterable[int], attributes: list[str]
) -> Iterator[tuple[int, dict[str, Any], dict[str, bytes]]]:
    """(position, row of the manifest, member bytes) of some samples, in the order of the manifest."""
    wanted = np.array(sorted(positions))
    columns = ["key", "shard", "confidence", *PLACES, *attributes]
    start = 0
    for batch in manifest.batches(layout.samples, columns):
        mine = wanted[(wanted >= start) & (wanted < start + batch.num_rows)]
        for position, row in zip(mine.tolist(), batch.take(pa.array(mine - start)).to_pylist(), strict=True):
            try:
                yield position, row, _members(layout.shards / row["shard"], row)
            except (BrokenSample, OSError) as error:
                raise _broken(layout, row, error) from error
        start += batch.num_rows


def _members(tar: Address, row: Mapping[str, Any]) -> dict[str, bytes]:
    """The members of one sample, which lie one after the other in its tar, by a single read."""
    extents = {name: Extent(row[f"{name}.offset"], row[f"{name}.size"]) for name in MEMBERS}
    first = min(extent.offset for extent in extents.values())
    last = max(extent.offset + extent.size for extent in extents.values())
    if isinstance(tar, Path):
        with tar.open("rb") as stream:
            data = read_extent(stream.fileno(), Extent(first, last - first), tar.name)
    else:
        data = tar.fs.cat_file(tar.path, start=first, end=last)
    if len(data) != last - first:
        raise BrokenSample(f"ends at {len(data)} of {last - first} bytes")
    return {
        name: data[extent.offset - first : extent.offset - first + extent.size]
        for name, extent in extents.items()
    }


def _broken(layout: Layout, row: Mapping[str, Any], error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or error
    place = layout.shards / row["shard"]
    return UserError(f"{place}, sample {row['key']}: {reason}; `python -m pipeline.verify` says more")
