"""facexlib's ParseNet, the parser of its face restoration: 512 pixels, CelebAMask-HQ's class order."""

import os
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from common.classes import CELEBAMASK_HQ_CLASSES
from common.hardware import hardware
from pipeline.parse.class_map import ClassMap
from pipeline.parse.network import Network, autocast

CLASS_MAP: Final = ClassMap(
    size=None,
    channels="RGB",
    layout="NCHW",
    scale=255.0,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    output=0,
    values="logits",
    coarse="centres",
    sides="position",
    classes=CELEBAMASK_HQ_CLASSES,
)
"""Class order and normalisation as in facexlib's inference/inference_parsing_parsenet.py; the
face restoration helper treats classes 14, 16, 17, 18 as no face, which fits that order."""


def load(weights: Path, numbers: str) -> Network:
    """ParseNet with checked weights, computing in `numbers`; its other output, an image, is not used."""
    from facexlib.parsing import init_parsing_model  # late, see bisenet.py

    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)  # PyTorch refuses to load with both
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    device = hardware().device
    model = init_parsing_model("parsenet", device=device.type, model_rootpath=str(weights.parent))
    model = model.to(memory_format=torch.channels_last)

    def scores(pixels: Tensor) -> Tensor:
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        with autocast(device, numbers):
            logits: Tensor = model(pixels)[CLASS_MAP.output]
        return logits.float()

    return Network(scores, device)
