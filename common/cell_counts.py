"""How many pixels of each class lie in each cell of a grid over a mask, and which classes dominate.

Counts are stored once per sample on a fine grid (`GRID`), so the targets of any coarser patch that is made
of whole cells are exact sums, without decoding the mask again.
"""

from functools import lru_cache
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.classes import NUM_CLASSES

GRID: Final = 12  # Cells per side of the counts that are stored


def cell_edges(size: int, grid: int) -> NDArray[np.int64]:
    """The grid + 1 cell borders of a side of `size` pixels: floor(i * size / grid).

    Raises:
        ValueError: the grid has no cell, or more cells than pixels.
    """
    if not 1 <= grid <= size:
        raise ValueError(f"a grid of {grid} cells does not fit a side of {size} pixels")
    return np.arange(grid + 1, dtype=np.int64) * size // grid


def cell_class_counts(mask: NDArray[np.uint8], grid: int) -> NDArray[np.uint16]:
    """Pixels of each class in each cell of a grid, of `grid` cells a side, over a square mask.

    `mask` is uint8 (S, S), classes 0..18; the counts are uint16 (G, G, 19), rows first, then columns, then
    classes, and sum to S * S.

    Raises:
        ValueError: the mask is not square, holds another class, or a cell could
            hold more pixels than uint16 can count.
    """
    if mask.ndim != 2 or mask.shape[0] != mask.shape[1]:
        raise ValueError(f"a mask must be square and two-dimensional, not {mask.shape}")
    if mask.max(initial=0) >= NUM_CLASSES:
        raise ValueError(f"mask value {mask.max()} is not a class (0..{NUM_CLASSES - 1})")
    size = mask.shape[0]
    edges = cell_edges(size, grid)
    if int(np.diff(edges).max()) ** 2 > np.iinfo(np.uint16).max:
        raise ValueError(
            f"cells of a {size} pixel mask on a grid of {grid} overflow uint16; use a finer grid"
        )
    counts = np.bincount((_first_bin(size, grid) + mask).ravel(), minlength=grid * grid * NUM_CLASSES)
    return counts.reshape(grid, grid, NUM_CLASSES).astype(np.uint16)


@lru_cache(maxsize=8)
def _first_bin(size: int, grid: int) -> NDArray[np.int64]:
    """The bin of class 0 of each pixel's cell, (size, size)."""
    cell_of_pixel = np.searchsorted(cell_edges(size, grid), np.arange(size), side="right") - 1
    return (cell_of_pixel[:, None] * grid + cell_of_pixel[None, :]) * NUM_CLASSES


def merge_cells(cells: Tensor, grid: int) -> Tensor:
    """Counts, integer (..., G, G, C), as exact sums on a coarser grid: int64 (..., grid, grid, C).

    Raises:
        ValueError: G is not a multiple of `grid`.
    """
    stored = cells.shape[-2]
    if grid < 1 or stored % grid:
        raise ValueError(f"{grid} patches a side are not made of whole cells of a {stored} x {stored} grid")
    blocks = (*cells.shape[:-3], grid, stored // grid, grid, stored // grid, cells.shape[-1])
    return cells.long().reshape(blocks).sum(dim=(-4, -2))


def dominant_classes(counts: Tensor, top: int) -> Tensor:
    """Which classes are among the `top`, v in the paper, with the most pixels: bool (..., C), as the counts.

    Classes without a pixel never are; of equal counts the lower class number wins.
    """
    order = counts.argsort(dim=-1, descending=True, stable=True)
    chosen = torch.zeros_like(counts, dtype=torch.bool)
    return chosen.scatter_(-1, order[..., :top], True) & (counts > 0)
