"""Drawing for the image of stage 1: cells of a column, with the words and colours that tasks share."""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from training.data.transforms import MEAN, STD

Image = NDArray[np.uint8]
"""RGB, uint8 (H, W, 3)."""

SIDE: Final = 156
"""Height of a cell in pixels, and the width of a photo."""
WHITE: Final = (255, 255, 255)
INK: Final = (40, 40, 40)
FAINT: Final = (205, 205, 205)
CORRECT: Final = (30, 160, 70)
"""Green: a target, or a prediction that agrees with it."""
WRONG: Final = (225, 90, 20)
"""Orange: a prediction that does not."""
GAP: Final = 8
HEADING: Final = 26
"""Pixels between cells, and height of the titles."""


@dataclass(frozen=True)
class Column:
    """A column of the image: a heading, and an image per sample, all of one width and `SIDE` high."""

    title: str
    cells: list[Image]


def canvas(height: int, width: int) -> Image:
    """A white image."""
    return np.full((height, width, 3), 255, np.uint8)


def scaled(image: NDArray[np.uint8], interpolation: int, side: int = SIDE) -> NDArray[np.uint8]:
    """A square image, or mask, at another size; `interpolation` is one of OpenCV's."""
    return cv2.resize(image, (side, side), interpolation=interpolation).astype(np.uint8, copy=False)


def photo(patch: Tensor) -> Image:
    """The pixels of a network input, float (3, S, S)."""
    pixels = patch.float().cpu().permute(1, 2, 0).numpy() * np.array(STD) + np.array(MEAN)
    return scaled(np.rint(255 * pixels.clip(0, 1)).astype(np.uint8), cv2.INTER_LINEAR)


def write(image: Image, text: str, corner: tuple[int, int], colour: tuple[int, int, int]) -> None:
    """Write small text whose lower left corner is (x, y)."""
    cv2.putText(image, text, corner, cv2.FONT_HERSHEY_SIMPLEX, 0.38, colour, 1, cv2.LINE_AA)


def joined(columns: list[Column]) -> Image:
    """The image of all columns, side by side below their titles."""
    return np.hstack([_drawn(column) for column in columns])


def _drawn(column: Column) -> Image:
    heading = canvas(HEADING, column.cells[0].shape[1] + 2 * GAP)
    write(heading, column.title, (GAP, 18), INK)
    border = cv2.BORDER_CONSTANT
    padded = [cv2.copyMakeBorder(cell, 0, GAP, GAP, GAP, border, value=WHITE) for cell in column.cells]
    return np.vstack([heading, *padded]).astype(np.uint8, copy=False)
