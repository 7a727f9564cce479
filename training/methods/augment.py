"""Augmentation of training images in stage 2: a whole batch at once, on its device, drawn per image."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flip, rotate, scale, shift and colour-jitter images, each by its own random parameters.

    Half are mirrored and a tenth grey; angles reach 10 degrees, scales change by up to a tenth, translations
    by a twentieth of the side, and brightness, contrast and saturation by a fifth. Float or uint8 0..255,
    (B, 3, S, S), become float32 0..255; the generator is the CPU's.
    """
    images = images.float()
    batch, device = len(images), images.device
    mirrored = (torch.rand(batch, generator=generator) < 0.5).float()
    angle = _uniform(math.radians(10.0), batch, generator)
    scale = 1 + _uniform(0.1, batch, generator)
    sign = 1 - 2 * mirrored
    right, down = (2 * _uniform(0.05, batch, generator) for _ in range(2))
    rows = (
        torch.stack([sign * angle.cos() * scale, -angle.sin() * scale, right], dim=1),
        torch.stack([sign * angle.sin() * scale, angle.cos() * scale, down], dim=1),
    )
    matrices = torch.stack(rows, dim=1).to(device, non_blocking=True)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)

    def factor() -> Tensor:
        return (1 + _uniform(0.2, batch, generator)).to(device, non_blocking=True)[:, None, None, None]

    grey = images.mean(dim=1, keepdim=True)
    greyscale = (torch.rand(batch, generator=generator) < 0.1).to(device, non_blocking=True)
    saturation = factor().masked_fill(greyscale[:, None, None, None], 0)
    images = grey + saturation * (images - grey)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return ((mean + factor() * (images - mean)) * factor()).clamp(0, 255)


def _uniform(reach: float, count: int, generator: torch.Generator) -> Tensor:
    """Uniform numbers between -`reach` and `reach`, float (`count`,)."""
    return reach * (2 * torch.rand(count, generator=generator) - 1)
