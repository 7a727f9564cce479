"""Augmentation of training images in stage 2: a whole batch at once, on its device, drawn per image."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from common.config import Augment


def augment(images: Tensor, config: Augment, generator: torch.Generator) -> Tensor:
    """Flip, rotate, scale, shift, colour-jitter and erase images, each by its own random parameters.

    Args:
        images: float or uint8 0..255, (B, 3, S, S).
        config: the ranges of the parameters.
        generator: CPU generator of all random draws.

    Returns:
        float32 0..255, (B, 3, S, S).
    """
    jittered = _jitter_color(_warp(images.float(), config, generator), config, generator)
    return _erase(jittered, config.erase, generator) if config.erase else jittered


def _warp(images: Tensor, config: Augment, generator: torch.Generator) -> Tensor:
    """One affine warp per image; the border is reflected."""
    batch = len(images)
    flipped = (torch.rand(batch, generator=generator) < config.flip).float()
    angle = _uniform(math.radians(config.rotate), batch, generator)
    scale = 1 + _uniform(config.zoom, batch, generator)
    sign = 1 - 2 * flipped
    right, down = (2 * _uniform(config.shift, batch, generator) for _ in range(2))
    rows = (
        torch.stack([sign * angle.cos() * scale, -angle.sin() * scale, right], dim=1),
        torch.stack([sign * angle.sin() * scale, angle.cos() * scale, down], dim=1),
    )
    matrices = torch.stack(rows, dim=1).to(images.device, non_blocking=True)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _jitter_color(images: Tensor, config: Augment, generator: torch.Generator) -> Tensor:
    """Change saturation, contrast and brightness, and turn some images grey."""
    batch, device = len(images), images.device

    def factor() -> Tensor:
        return (1 + _uniform(config.color, batch, generator)).to(device, non_blocking=True)[
            :, None, None, None
        ]

    grey = images.mean(dim=1, keepdim=True)
    greyscale = (torch.rand(batch, generator=generator) < config.gray).to(device, non_blocking=True)[
        :, None, None, None
    ]
    saturation = factor().masked_fill(greyscale, 0)
    images = grey + saturation * (images - grey)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return ((mean + factor() * (images - mean)) * factor()).clamp(0, 255)


def _erase(images: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """Grey out one square per image, its side up to `fraction` of the image's (DeVries and Taylor 2017)."""
    batch, side = len(images), images.shape[-1]
    half = fraction * side * torch.rand(batch, generator=generator) / 2
    centres = side * torch.rand(2, batch, generator=generator)
    pixels = torch.arange(side) + 0.5
    rows, columns = ((pixels - centre[:, None]).abs() < half[:, None] for centre in centres)
    erased = (rows[:, :, None] & columns[:, None, :])[:, None].to(images.device, non_blocking=True)
    return images.masked_fill(erased, 127.5)


def _uniform(reach: float, count: int, generator: torch.Generator) -> Tensor:
    """Uniform numbers between -`reach` and `reach`, float (`count`,)."""
    return reach * (2 * torch.rand(count, generator=generator) - 1)
