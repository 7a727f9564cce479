"""One image of what stage 1 does: the patches, and beside them the panel of every task."""

from collections.abc import Sequence
from typing import Any, Final

import cv2
import numpy as np
from torch import Tensor

from training.pretrain.model import Example
from training.pretrain.tasks import PretextTask
from training.pretrain.tasks.panel import INK, WHITE, Column, Image, canvas, photo, write

MAX_ROWS: Final = 6
GAP: Final = 8
HEADING: Final = 26
"""Pixels between cells, and height of the titles."""


def tasks_image(
    tasks: Sequence[PretextTask[Any]], example: Example, outputs: dict[str, dict[str, Tensor]]
) -> Image:
    """A row per sample, at most `MAX_ROWS`, RGB uint8 (H, W, 3)."""
    rows = min(MAX_ROWS, len(example.crops.patches))
    columns = [Column("patch", [photo(patch) for patch in example.crops.patches[:rows]])]
    for task in tasks:
        columns += task.panel(example.crops, example.targets[task.name], outputs[task.name], rows)
    return np.hstack([_drawn(column) for column in columns])


def _drawn(column: Column) -> Image:
    heading = canvas(HEADING, column.cells[0].shape[1] + 2 * GAP)
    write(heading, column.title, (GAP, 18), INK)
    border = cv2.BORDER_CONSTANT
    padded = [cv2.copyMakeBorder(cell, 0, GAP, GAP, GAP, border, value=WHITE) for cell in column.cells]
    return np.vstack([heading, *padded]).astype(np.uint8, copy=False)
