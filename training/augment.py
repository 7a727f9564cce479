"""Random changes of training faces in stage 2, for a whole batch on its device."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from contract.config import Augment


def augment(images: Tensor, config: Augment, generator: torch.Generator) -> Tensor:
    """Mirror, turn, scale, shift and recolour faces, each by draws of its own.

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
    return ((middle + factor() * (faces - middle)) * factor()).clamp(0, 255)
