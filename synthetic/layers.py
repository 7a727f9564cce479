"""Layers of paint: one face region each, with its colour, its soft coverage and its parsing class."""

from dataclasses import dataclass

import numpy as np

from common.classes import CLASSES
from synthetic.geometry import Bytes, Canvas, Floats


@dataclass(frozen=True)
class Layer:
    """Paint for one window of the drawing.

    Attributes:
        window: where the paint lies.
        coverage: float32 (height, width) in 0..1; 1 hides what is below.
        colour: float32 RGB in 0..1, (height, width, 3) or one colour (3,), already lit.
        class_name: name from `common.classes.CLASSES` of the pixels that are at least half covered, or None
            for paint that changes the colour but not the class (make-up, stubble, shadows).
        extent: uint8 (height, width) coverage that decides the class instead of `coverage`, for paint that
            is thinner than its region (eyebrow hairs) or see-through (spectacle lenses).
    """

    window: Canvas
    coverage: Floats
    colour: Floats
    class_name: str | None = None
    extent: Bytes | None = None


class Painting:
    """The drawing so far.

    Attributes:
        canvas: the whole drawing.
        colour: float32 RGB (height, width, 3), premultiplied by `coverage`.
        coverage: float32 (height, width) in 0..1, 0 where the background shows.
        classes: uint8 (height, width), index into `common.classes.CLASSES`.
    """

    def __init__(self, canvas: Canvas) -> None:
        self.canvas = canvas
        self.colour: Floats = np.zeros((canvas.height, canvas.width, 3), np.float32)
        self.coverage: Floats = np.zeros((canvas.height, canvas.width), np.float32)
        self.classes: Bytes = np.zeros((canvas.height, canvas.width), np.uint8)

    def add(self, layer: Layer) -> None:
        """Paint a layer over the others; raises ValueError if its class is not a parsing class."""
        window = layer.window
        rows = slice(window.row, window.row + window.height)
        columns = slice(window.column, window.column + window.width)
        below, through = self.colour[rows, columns], self.coverage[rows, columns]
        # Shadows and make-up lie on what is already there; they never float over the background.
        coverage = layer.coverage * through if layer.class_name is None else layer.coverage
        below += coverage[:, :, None] * (layer.colour - below)
        if layer.class_name is None:
            return
        through += coverage * (1 - through)
        extent = layer.coverage >= 0.5 if layer.extent is None else layer.extent >= 128
        self.classes[rows, columns][extent] = CLASSES.index(layer.class_name)
