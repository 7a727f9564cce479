"""From counts per class to the classes that dominate a patch, on tensors of any device."""

import torch
from torch import Tensor


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
    """Which classes are among the `top` with the most pixels, bool (..., C).

    Classes without a pixel never are; of equal counts the lower class number wins.

    Args:
        counts: integer (..., C), pixels per class.
        top: v in the paper.
    """
    order = counts.argsort(dim=-1, descending=True, stable=True)
    chosen = torch.zeros_like(counts, dtype=torch.bool)
    return chosen.scatter_(-1, order[..., :top], True) & (counts > 0)
