"""How far two sets of masks agree, from counts that add up over shards."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from common.classes import CLASSES, NUM_CLASSES


def _no_pixels() -> NDArray[np.int64]:
    return np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)


@dataclass
class Agreement:
    """Counts over the samples that both sets have.

    Attributes:
        top: how many classes of a patch count as dominant (v).
        patches: patches per side in which they are compared.
        samples: keys that both sets have.
        only_first, only_second: keys that only one of the sets has.
        other_faces: samples whose JPEG differs between the sets, so that their masks are of different crops.
        pixels: int64 (19, 19), pixels by class in the first and in the second set.
        same_dominant: patches whose dominant classes are the same.
        shared_dominant, either_dominant: dominant classes of both sets, and of either, over all patches.
    """

    top: int
    patches: int
    samples: int = 0
    only_first: int = 0
    only_second: int = 0
    other_faces: int = 0
    pixels: NDArray[np.int64] = field(default_factory=_no_pixels)
    same_dominant: int = 0
    shared_dominant: int = 0
    either_dominant: int = 0

    def merge(self, other: "Agreement") -> None:
        """Add the counts of other samples."""
        self.samples += other.samples
        self.other_faces += other.other_faces
        self.pixels += other.pixels
        self.same_dominant += other.same_dominant
        self.shared_dominant += other.shared_dominant
        self.either_dominant += other.either_dominant

    def figures(self) -> dict[str, Any]:
        """The figures as JSON-able values; null where a class has no pixel in either set."""
        first, second, both = self.pixels.sum(axis=1), self.pixels.sum(axis=0), self.pixels.diagonal()
        classes = {}
        for number, name in enumerate(CLASSES):
            either = int(first[number] + second[number] - both[number])
            classes[name] = {
                "pixels": int(first[number]),
                "pixels_other": int(second[number]),
                "iou": int(both[number]) / either if either else None,
                "f1": 2 * int(both[number]) / int(first[number] + second[number]) if either else None,
            }
        f1 = [value["f1"] for value in list(classes.values())[1:] if value["f1"] is not None]
        total = int(self.pixels.sum())
        return {
            "samples": self.samples,
            "only_first": self.only_first,
            "only_second": self.only_second,
            "other_faces": self.other_faces,
            "pixel_agreement": int(both.sum()) / total if total else None,
            "mean_f1_of_parts": sum(f1) / len(f1) if f1 else None,
            "top_parts": self.top,
            "patches": self.patches,
            "same_top_parts": self.same_dominant / (self.samples * self.patches**2) if self.samples else None,
            "shared_top_parts": self.shared_dominant / self.either_dominant if self.either_dominant else None,
            "classes": classes,
        }

    def table(self) -> str:
        """The figures as text."""
        figures = self.figures()
        rows = [
            (name, f"{value['pixels']:,}", f"{value['pixels_other']:,}", value["iou"], value["f1"])
            for name, value in figures["classes"].items()
        ]
        headers = ("class", "pixels", "other pixels", "IoU", "F1")
        columns = ("left", "right", "right", "right", "right")
        lines = [tabulate(rows, headers, floatfmt=".3f", missingval="-", colalign=columns)]
        where = f"{self.patches} x {self.patches} patches" if self.patches > 1 else "faces"
        lines += [
            "",
            f"{self.samples:,} samples in both sets, {self.only_first:,} only in the first, "
            f"{self.only_second:,} only in the other",
        ]
        if self.samples:
            lines += [
                f"pixels of the same class: {figures['pixel_agreement']:.2%}",
                f"mean F1 of the face regions (without background): {figures['mean_f1_of_parts']:.3f}",
                f"{where} with exactly the same top {self.top} classes: {figures['same_top_parts']:.2%}",
                f"top {self.top} classes of either set that both have: {figures['shared_top_parts']:.2%}",
            ]
        if self.other_faces:
            lines.append(
                f"{self.other_faces:,} samples have different face images: their masks are of different crops"
            )
        return "\n".join(lines)
