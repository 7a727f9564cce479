"""Random changes of training faces in stage 2, for a whole batch on its device."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from common.config import Augment


def augment(images: Tensor, config: Augment, generator: torch.Generator) -> Tensor:
    """Mirror, turn, scale, shift, recolour and partly hide faces, each by draws of its own.

    Args:
        images: float or uint8 0..255, (B, 3, S, S).
        config: how much.
        generator: CPU generator of all draws.

    Returns:
        float32 0..255, (B, 3, S, S).
    """
    batch, where = len(images), images.device

    def draw(reach: float) -> Tensor:
        return reach * (2 * torch.rand(batch, generator=generator) - 1)

    mirrored = (torch.rand(batch, generator=generator) < config.flip).float()
    angle, scale = draw(math.radians(config.rotate)), 1 + draw(config.zoom)
    sign = 1 - 2 * mirrored
    matrix = torch.stack(
        [
            torch.stack([sign * angle.cos() * scale, -angle.sin() * scale, 2 * draw(config.shift)], dim=1),
            torch.stack([sign * angle.sin() * scale, angle.cos() * scale, 2 * draw(config.shift)], dim=1),
        ],
        dim=1,
    ).to(where)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    faces = F.grid_sample(images.float(), grid, padding_mode="reflection", align_corners=False)

    def factor() -> Tensor:
        return (1 + draw(config.color)).to(where)[:, None, None, None]

    gray = faces.mean(dim=1, keepdim=True)
    colourless = (torch.rand(batch, generator=generator) < config.gray).to(where)[:, None, None, None]
    saturation = torch.where(colourless, torch.zeros((), device=where), factor())
    faces = gray + saturation * (faces - gray)
    middle = faces.mean(dim=(1, 2, 3), keepdim=True)
    coloured = ((middle + factor() * (faces - middle)) * factor()).clamp(0, 255)
    return _erase(coloured, config.erase, generator) if config.erase else coloured


def _erase(faces: Tensor, reach: float, generator: torch.Generator) -> Tensor:
    """Grey out one square per face, of a side up to `reach` of its side (DeVries and Taylor 2017)."""
    batch, side = len(faces), faces.shape[-1]
    half = reach * side * torch.rand(batch, generator=generator) / 2
    centre = side * torch.rand(2, batch, generator=generator)
    pixels = torch.arange(side) + 0.5
    rows, columns = ((pixels - middle[:, None]).abs() < half[:, None] for middle in centre)
    hidden = (rows[:, :, None] & columns[:, None, :])[:, None].to(faces.device)
    return torch.where(hidden, torch.full((), 127.5, device=faces.device), faces)
