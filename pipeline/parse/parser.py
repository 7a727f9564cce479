"""The face parser: facexlib's BiSeNet, run where it is good and fast.

It needs 448 to 512 pixels whatever the stored size: on 200 CelebAMask-HQ faces
its mean F1 is 0.81 at 448 and 0.53 at 256. Only the main head is run, and left and
right are given by position (`sides.py`).
"""

import os
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from facexlib.parsing import init_parsing_model
from numpy.typing import NDArray
from torch import Tensor, nn

from contract.classes import NUM_CLASSES
from contract.config import Parse
from contract.memory import keep_freed_memory
from pipeline.parse.sides import assign_sides

MEAN: Final = (0.485, 0.456, 0.406)
"""ImageNet channel means that the weights were trained with, for values 0 to 1."""
STD: Final = (0.229, 0.224, 0.225)
"""ImageNet channel deviations that the weights were trained with."""


@lru_cache(maxsize=1)
def load_parser(weights: Path) -> nn.Module:
    """BiSeNet with checked weights, one per process, on the GPU if there is one, channels-last."""
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    torch.set_num_threads(1)
    keep_freed_memory()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = init_parsing_model("bisenet", device=device, model_rootpath=str(weights.parent))
    return network.to(memory_format=torch.channels_last)


def parse_faces(
    network: nn.Module, faces: NDArray[np.uint8], config: Parse
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Masks and confidences of a batch of faces.

    Args:
        network: from `load_parser`.
        faces: uint8 RGB (B, S, S, 3).
        config: network input size and precision.

    Returns:
        masks: uint8 (B, S, S), classes 0..18.
        confidence: float32 (B, 19): mean softmax probability of a class over the pixels
            that were given it, 0 where there are none.
    """
    device = next(network.parameters()).device
    pixels = torch.from_numpy(faces).to(device).permute(0, 3, 1, 2).float().div_(255)
    pixels = F.interpolate(pixels, (config.size, config.size), mode="bilinear", align_corners=False)
    mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (MEAN, STD))
    pixels = ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            logits = _main_head(network, pixels)
        # The weights were trained with corner-aligned upsampling to the input; from there the stored
        # size follows by an ordinary resize with pixel centres at halves.
        logits = F.interpolate(logits.float(), pixels.shape[-2:], mode="bilinear", align_corners=True)
        logits = F.interpolate(logits, faces.shape[1:3], mode="bilinear", align_corners=False)
        probability, classes = logits.softmax(dim=1).max(dim=1)
    masks = assign_sides(classes.to(torch.uint8).cpu().numpy())
    return masks, _mean_by_class(probability.cpu().numpy(), masks)


def _main_head(network: nn.Module, pixels: Tensor) -> Tensor:
    """BiSeNet's forward pass without its two auxiliary heads: logits (B, 19, H/8, W/8)."""
    context, fusion, head = (network.get_submodule(name) for name in ("cp", "ffm", "conv_out"))
    fine, coarse, _ = context(pixels)
    logits: Tensor = head(fusion(fine, coarse))[0]
    return logits


def _mean_by_class(probability: NDArray[np.float32], masks: NDArray[np.uint8]) -> NDArray[np.float32]:
    means = np.zeros((len(masks), NUM_CLASSES), np.float32)
    for mean, values, mask in zip(means, probability, masks, strict=True):
        count = np.bincount(mask.ravel(), minlength=NUM_CLASSES)
        mean[:] = np.bincount(mask.ravel(), values.ravel(), NUM_CLASSES) / np.maximum(count, 1)
    return means
