"""How far two sets of masks agree, from counts that add up over shards."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.classes import CLASSES, NUM_CLASSES


def _no_pixels() -> NDArray[np.int64]:
    return np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)


@dataclass
class Agreement:
    """Counts over the samples that both sets have.

    Attributes:
        top: how many parts count as dominant (v).
        patches: patches per side in which they are compared.
        samples: keys that both sets have.
        only_first, only_second: keys that one set alone has.
        other_faces: samples whose JPEG differs between the sets, so that their masks show other crops.
        pixels: int64 (19, 19), pixels by class in the first and in the second set.
        same_parts: patches whose dominant parts are the same classes.
        shared_parts, either_parts: dominant parts of both sets, and of one or both, over all patches.
    """

    top: int
    patches: int
    samples: int = 0
    only_first: int = 0
    only_second: int = 0
    other_faces: int = 0
    pixels: NDArray[np.int64] = field(default_factory=_no_pixels)
    same_parts: int = 0
    shared_parts: int = 0
    either_parts: int = 0

    def merge(self, other: "Agreement") -> None:
        """Add the counts of other samples."""
        self.samples += other.samples
        self.other_faces += other.other_faces
        self.pixels += other.pixels
        self.same_parts += other.same_parts
        self.shared_parts += other.shared_parts
        self.either_parts += other.either_parts

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
            "same_top_parts": self.same_parts / (self.samples * self.patches**2) if self.samples else None,
            "shared_top_parts": self.shared_parts / self.either_parts if self.either_parts else None,
            "classes": classes,
        }

    def table(self) -> str:
        """The figures for people."""
        figures = self.figures()
        lines = [f"{'class':<12}{'pixels':>14}{'other pixels':>14}{'IoU':>8}{'F1':>8}"]
        for name, value in figures["classes"].items():
            shares = "".join(f"{'-' if value[k] is None else f'{value[k]:.3f}':>8}" for k in ("iou", "f1"))
            lines.append(f"{name:<12}{value['pixels']:>14,}{value['pixels_other']:>14,}{shares}")
        where = f"{self.patches} x {self.patches} patches" if self.patches > 1 else "faces"
        lines += [
            "",
            f"{self.samples:,} samples in both sets, {self.only_first:,} only in the first, "
            f"{self.only_second:,} only in the other",
        ]
        if self.samples:
            lines += [
                f"pixels of the same class: {figures['pixel_agreement']:.2%}",
                f"mean F1 of the parts (without background): {figures['mean_f1_of_parts']:.3f}",
                f"{where} with exactly the same top {self.top} parts: {figures['same_top_parts']:.2%}",
                f"top {self.top} parts of either set that both have: {figures['shared_top_parts']:.2%}",
            ]
        if self.other_faces:
            lines.append(
                f"{self.other_faces:,} samples have another face picture: their masks show other crops"
            )
        return "\n".join(lines)
