"""facexlib's BiSeNet, run where it is good and fast.

It needs 448 to 512 pixels whatever the stored size: on 200 CelebAMask-HQ faces
its mean F1 is 0.81 at 448 and 0.53 at 256. Only the main head is run.
"""

import os
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from facexlib.parsing import init_parsing_model
from torch import Tensor, nn

from contract.classes import CLASSES
from contract.config import Precision
from pipeline.parse.class_map import ClassMap
from pipeline.parse.network import Network, best_device

CLASS_MAP: Final = ClassMap(
    size=None,
    channels="RGB",
    layout="NCHW",
    scale=255.0,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    output=0,
    values="logits",
    sides="position",
    classes=CLASSES,
)
"""ImageNet's normalisation, as in training. The weights do not know left from right: see `sides`."""


def load(weights: Path, precision: Precision) -> Network:
    """BiSeNet with checked weights, channels-last."""
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    device = best_device()
    model = init_parsing_model("bisenet", device=device.type, model_rootpath=str(weights.parent))
    model = model.to(memory_format=torch.channels_last)

    def scores(pixels: Tensor) -> Tensor:
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            logits = _main_head(model, pixels)
        # The weights were trained with corner-aligned upsampling to the input.
        return F.interpolate(logits.float(), pixels.shape[-2:], mode="bilinear", align_corners=True)

    return Network(scores, device)


def _main_head(model: nn.Module, pixels: Tensor) -> Tensor:
    """BiSeNet's forward pass without its two auxiliary heads: logits (B, 19, H/8, W/8)."""
    context, fusion, head = (model.get_submodule(name) for name in ("cp", "ffm", "conv_out"))
    fine, coarse, _ = context(pixels)
    logits: Tensor = head(fusion(fine, coarse))[0]
    return logits
