"""Square patches cut from whole batches, without a loop over samples."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import UserError


def crop(images: Tensor, top: Tensor, left: Tensor, side: int) -> Tensor:
    """Cut squares out of each picture of a batch.

    Args:
        images: any dtype (B, C, H, W).
        top, left: int64 (B, N), upper left corners in pixels.
        side: side of the squares in pixels.

    Returns:
        (B, N, C, side, side), dtype of `images`.
    """
    steps = torch.arange(side, device=images.device)
    rows = (top[:, :, None] + steps)[:, :, :, None]
    columns = (left[:, :, None] + steps)[:, :, None, :]
    which = torch.arange(len(images), device=images.device)[:, None, None, None]
    return images.permute(0, 2, 3, 1)[which, rows, columns].permute(0, 1, 4, 2, 3)


def resize_masks(masks: Tensor, size: int) -> Tensor:
    """Nearest resize (pixel centres) of class masks, integer (B, H, W), to int64 (B, size, size)."""
    return F.interpolate(masks[:, None].float(), (size, size), mode="nearest-exact")[:, 0].long()


def random_patches(
    count: int, size: int, grid: int, fraction: Sequence[float], generator: torch.Generator
) -> tuple[Tensor, int]:
    """Where squares of one random side lie, uniform over all places on a grid.

    Args:
        count: of squares.
        size: side of the pictures in pixels.
        grid: places per side; `size` puts squares at any pixel.
        fraction: least and greatest side of the squares, as a share of `size`.
        generator: of the draws.

    Returns:
        Upper left corners, int64 (count, 2), and the side; both in pixels.

    Raises:
        UserError: `grid` does not divide `size`.
    """
    if size % grid:
        raise UserError(
            f"pretrain.patch_grid={grid}: a side of {size} pixels is not {grid} whole cells; set it to a "
            "divisor, or to null"
        )
    least, greatest = fraction
    share = least + (greatest - least) * torch.rand((), generator=generator).item()
    cells, cell = min(grid, max(1, round(grid * share))), size // grid
    return torch.randint(0, grid - cells + 1, (count, 2), generator=generator) * cell, cells * cell
