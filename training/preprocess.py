"""How a face becomes the network's input, in training and afterwards."""

from typing import Final

import torch
from torch import Tensor

from training.tasks.patches import resize_images

MEAN: Final = (0.485, 0.456, 0.406)
"""ImageNet channel means, for values 0 to 1."""
STD: Final = (0.229, 0.224, 0.225)
"""ImageNet channel deviations, for values 0 to 1."""


def to_input(images: Tensor, size: int) -> Tensor:
    """Resize uint8 or float 0..255 (B, 3, H, W) faces and normalise them: float32 (B, 3, size, size)."""
    mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (MEAN, STD))
    resized = resize_images(images, size) if images.shape[-1] != size else images.float()
    pictures = (resized / 255 - mean) / std
    return pictures.contiguous(memory_format=torch.channels_last)
