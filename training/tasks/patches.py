"""Square patches cut from whole batches, without a loop over samples."""

import torch
import torch.nn.functional as F
from torch import Tensor


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


def resize_images(images: Tensor, size: int) -> Tensor:
    """Bilinear resize of uint8 or float (B, C, H, W) to float32 (B, C, size, size), without aliasing.

    On the CPU uint8 pictures are resized as such: ten times faster, rounded to whole levels after each axis.
    """
    if images.dtype != torch.uint8 or images.device.type != "cpu":
        images = images.float()
    resized = F.interpolate(images, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return resized.to(torch.float32, memory_format=torch.contiguous_format)


def resize_masks(masks: Tensor, size: int) -> Tensor:
    """Nearest resize (pixel centres) of class masks, integer (B, H, W), to int64 (B, size, size)."""
    return F.interpolate(masks[:, None].float(), (size, size), mode="nearest-exact")[:, 0].long()


def random_corners(count: int, room: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Upper left corners, int64 (count, 2), uniform over 0..room in both directions."""
    return torch.randint(0, room + 1, (count, 2), generator=generator).to(device)
