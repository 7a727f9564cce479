"""How far the masks of two sets of the same faces agree, by counts that add up over shards."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tabulate import tabulate

from common.cell_counts import dominant_classes, merge_cells
from common.classes import CLASSES, NUM_CLASSES
from common.errors import UserError
from common.members import decode_cell_counts, decode_mask
from common.shards import extent_of, read_member
from common.storage import Address


@dataclass
class Agreement:
    """Counts over the samples that both sets have."""

    patches: int  # patches per side in which dominant classes are compared; must divide the grid
    top: int  # how many classes of a patch count as dominant (v)
    # ``samples``; ``only_first`` and ``only_second``, samples of one set; ``other_faces``, samples whose JPEG
    # differs, so that their masks are of different crops; ``same_top``, patches with the same dominant
    # classes; ``shared_top`` and ``either_top``, dominant classes of both, of either
    counts: Counter[str] = field(default_factory=Counter)
    # int64 (19, 19), pixels by class in the first and in the other set
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros((NUM_CLASSES,) * 2, np.int64))

    def add(
        self, mask: NDArray[np.uint8], cells: NDArray[np.uint16], root: Address, other: Mapping[str, Any]
    ) -> None:
        """Compare a sample's class mask, (S, S), and counts, (G, G, 19), with those of the other set.

        `other` is the sample's row there, and `root` the folder of its shards.

        Raises:
            UserError: a member of the other set is damaged, or the two sets' masks or grids do not fit.
        """
        try:
            read = partial(read_member, root, other["shard"])
            other_mask = decode_mask(read(extent_of(other, "mask.png")))
            other_cells = decode_cell_counts(read(extent_of(other, "parts.npy")))
            first, second = (
                dominant_classes(merge_cells(torch.from_numpy(each.astype(np.int64)), self.patches), self.top)
                for each in (cells, other_cells)
            )
            if mask.shape != other_mask.shape:
                raise ValueError(f"its mask has {other_mask.shape} pixels, the one to compare {mask.shape}")
        except (OSError, ValueError) as error:
            sample = f"{root / other['shard']}: {other['key']}"
            raise UserError(f"{sample}: {error}; see `python -m pipeline.verify`") from error
        pairs = mask.astype(np.int64) * NUM_CLASSES + other_mask
        self.pixels += np.bincount(pairs.ravel(), minlength=NUM_CLASSES**2).reshape(self.pixels.shape)
        self.counts["same_top"] += int((first == second).all(dim=-1).sum())
        self.counts["shared_top"] += int((first & second).sum())
        self.counts["either_top"] += int((first | second).sum())
        self.counts["samples"] += 1

    def merge(self, other: "Agreement") -> None:
        """Add the counts of other samples."""
        self.counts.update(other.counts)
        self.pixels += other.pixels

    def figures(self) -> dict[str, Any]:
        """The figures as JSON-able values; null where there is nothing to compare."""
        counts, pixels = self.counts, self.pixels
        sums = zip(pixels.sum(axis=1).tolist(), pixels.sum(axis=0).tolist(), pixels.diagonal(), strict=True)
        classes = {
            name: {
                "pixels": first,
                "pixels_other": second,
                "iou": _share(both, first + second - both),
                "f1": _share(2 * both, first + second),
            }
            for name, (first, second, both) in zip(CLASSES, sums, strict=True)
        }
        f1 = [classes[name]["f1"] for name in CLASSES[1:] if classes[name]["f1"] is not None]
        return {
            **{name: counts[name] for name in ("samples", "only_first", "only_second", "other_faces")},
            "pixel_agreement": _share(pixels.trace(), pixels.sum()),
            "mean_f1_of_parts": _share(sum(f1), len(f1)),
            "top_parts": self.top,
            "patches": self.patches,
            "same_top_parts": _share(counts["same_top"], counts["samples"] * self.patches**2),
            "shared_top_parts": _share(counts["shared_top"], counts["either_top"]),
            "classes": classes,
        }

    def table(self) -> str:
        """The figures as text."""
        figures, top = self.figures(), self.top
        rows = [
            (name, f"{value['pixels']:,}", f"{value['pixels_other']:,}", value["iou"], value["f1"])
            for name, value in figures["classes"].items()
        ]
        headers = ("class", "pixels", "other pixels", "IoU", "F1")
        where = f"{self.patches} x {self.patches} patches" if self.patches > 1 else "faces"
        lines = [
            tabulate(rows, headers, floatfmt=".3f", missingval="-", colalign=("left", *["right"] * 4)),
            "",
            f"{figures['samples']:,} samples in both sets, {figures['only_first']:,} only in the first, "
            f"{figures['only_second']:,} only in the other",
        ]
        if figures["samples"]:
            lines += [
                f"pixels of the same class: {figures['pixel_agreement']:.2%}",
                f"mean F1 of the face regions (without background): {figures['mean_f1_of_parts']:.3f}",
                f"{where} with exactly the same top {top} classes: {figures['same_top_parts']:.2%}",
                f"top {top} classes of either set that both have: {figures['shared_top_parts']:.2%}",
            ]
        if other := figures["other_faces"]:
            lines.append(f"{other:,} samples have different face images: their masks are of different crops")
        return "\n".join(lines)


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None
