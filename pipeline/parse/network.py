"""What all networks of the stage share: their interface, and the way from faces to their input."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline.parse.class_map import InputFormat


@dataclass(frozen=True)
class Network:
    """A loaded network.

    Attributes:
        outputs: float32 (B, 3, S, S) normalised pixels, in the channel order of its description, to a tuple:
            the output that the description names, such as (B, C, h, w) scores of the C classes of a parser,
            then the feature maps of a parser that has some, float (B, C, h, w) each.
        device: the device of its input.
    """

    outputs: Callable[[Tensor], tuple[Tensor, ...]]
    device: torch.device


def normalised(
    faces: NDArray[np.uint8], input_format: InputFormat, size: int, device: torch.device
) -> Tensor:
    """RGB faces, uint8 (B, S, S, 3), as the network's input, float32 (B, 3, size, size).

    Resized bilinearly after normalisation, which is linear and costs less on the smaller image. On CPUs
    OpenCV resizes, five times as fast as PyTorch.
    """
    scale = np.array([1 / (input_format.scale * deviation) for deviation in input_format.std], np.float32)
    shift = np.divide(input_format.mean, input_format.std, dtype=np.float32)
    order = [0, 1, 2] if input_format.channels == "RGB" else [2, 1, 0]
    if device.type == "cpu":
        return torch.from_numpy(_resized_by_opencv(faces, order, scale, shift, size))
    pixels = torch.from_numpy(faces)
    if device.type == "cuda":
        pixels = pixels.pin_memory()
    return _resized_by_pytorch(pixels.to(device, non_blocking=True), order, scale, shift, size)


def _resized_by_opencv(
    faces: NDArray[np.uint8],
    order: list[int],
    scale: NDArray[np.float32],
    shift: NDArray[np.float32],
    size: int,
) -> NDArray[np.float32]:
    pixels = np.empty((len(faces), 3, size, size), np.float32)
    for face, planes in zip(faces, pixels, strict=True):
        for channel, plane in enumerate(planes):
            small = face[..., order[channel]] * scale[channel] - shift[channel]
            cv2.resize(small, (size, size), dst=plane, interpolation=cv2.INTER_LINEAR)
    return pixels


def _resized_by_pytorch(
    faces: Tensor, order: list[int], scale: NDArray[np.float32], shift: NDArray[np.float32], size: int
) -> Tensor:
    factor, minus = (torch.from_numpy(values).to(faces.device)[:, None, None] for values in (scale, shift))
    pixels = faces.permute(0, 3, 1, 2)[:, order].float() * factor - minus
    return F.interpolate(pixels, (size, size), mode="bilinear", align_corners=False)
