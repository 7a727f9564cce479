"""A decoded photo, of a large JPEG only as finely as it is needed, or why there is none."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

# Pixels of a JPEG from which reduced decoding pays; smaller ones are always decoded in full.
REDUCED_FROM: Final = 4_000_000


class Refused(ValueError):
    """An image that cannot become a sample: a code, such as ``truncated``, and one sentence about it."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class View:
    """A photo at a part of its size."""

    pixels: NDArray[np.uint8]  # RGB, uint8 (h, w, 3), upright
    reduction: int  # the side of the square of the photo's pixels that each pixel stands for
    # x and y of the upper left corner in the photo, each less than `reduction`: rows and columns that fill no
    # such square are cut off
    corner: tuple[int, int]
    shape: tuple[int, ...]  # height and width of the photo


class Photo:
    """A photo, of a large JPEG decoded only as finely as it is needed.

    `shape` is its height and width, upright, `notices` are codes of what is unusual about it, such as
    `CUT_SHORT`, `view` is what is decoded already, and `decode` gives the view at a reduction of 1, 2, 4 or
    8; without it `view` is the whole.
    """

    def __init__(
        self, view: View, decode: Callable[[int], View] | None = None, notices: tuple[str, ...] = ()
    ) -> None:
        self.shape, self.notices = view.shape, notices
        self._views, self._decode = {view.reduction: view}, decode

    def view(self, reduction: float) -> View:
        """The smallest view that is reduced by at most `reduction`, whichever are decoded already."""
        factor = factor_within(reduction) if self._decode else 1
        if self._decode and factor not in self._views:
            self._views[factor] = self._decode(factor)
        return self._views[factor]

    @property
    def image(self) -> NDArray[np.uint8]:
        """All pixels, RGB, uint8 (H, W, 3), upright."""
        return self.view(1).pixels


def factor_within(reduction: float) -> int:
    """The largest factor that is at most `reduction`, or 1, by which JPEG decoders shrink both sides."""
    return next(each for each in (8, 4, 2, 1) if each <= max(reduction, 1))
