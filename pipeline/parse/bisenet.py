"""facexlib's BiSeNet, at the input size at which it is accurate, and without its auxiliary heads.

It needs 448 to 512 pixels, whatever the stored size: on 200 CelebAMask-HQ faces
its mean F1 is 0.81 at 448 and 0.53 at 256. Only the main head runs.
"""

import os
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from common.classes import CLASSES
from common.hardware import hardware
from pipeline.parse.class_map import ClassMap
from pipeline.parse.network import Network, autocast

CLASS_MAP: Final = ClassMap(
    size=None,
    channels="RGB",
    layout="NCHW",
    scale=255.0,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    output=0,
    values="logits",
    coarse="corners",
    sides="position",
    classes=CLASSES,
)
"""ImageNet's normalisation, as in training. The weights do not tell left from right: see `sides`."""


def load(weights: Path, numbers: str) -> Network:
    """BiSeNet with checked weights in PyTorch, channels-last, computing in `numbers`."""
    device = hardware().device
    model = main_head(weights).to(device).to(memory_format=torch.channels_last)

    def scores_and_maps(pixels: Tensor) -> tuple[Tensor, ...]:
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        with autocast(device, numbers):
            return model.logits_and_maps(pixels)

    return Network(lambda pixels: scores_and_maps(pixels)[0], device, scores_and_maps)


MAPS: Final = ("stride8", "stride16", "stride32", "fused")
"""Feature maps: three stages of its ResNet, and what the logits are computed from."""


def main_head(weights: Path) -> "_MainHead":
    """BiSeNet with checked weights on the CPU, in float32, without its two auxiliary heads."""
    # Imported late, as torchvision behind it takes two seconds that a worker in int8 does not need.
    from facexlib.parsing import init_parsing_model

    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)  # PyTorch refuses to load with both
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    model = init_parsing_model("bisenet", device="cpu", model_rootpath=str(weights.parent))
    return _MainHead(model).eval()


class _MainHead(nn.Module):
    """From pixels, float (B, 3, H, W), to logits (B, 19, H/8, W/8)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.context, self.fusion, self.head = (
            model.get_submodule(name) for name in ("cp", "ffm", "conv_out")
        )

    def forward(self, pixels: Tensor) -> Tensor:
        fine, coarse, _ = self.context(pixels)
        logits: Tensor = self.head(self.fusion(fine, coarse))[0]
        return logits

    def logits_and_maps(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """The logits, then the maps that `MAPS` names."""
        maps: list[Tensor] = []
        hooks = (
            self.context.get_submodule("resnet").register_forward_hook(lambda *call: maps.extend(call[2])),
            self.fusion.register_forward_hook(lambda *call: maps.append(call[2])),
        )
        try:
            return self(pixels), *maps
        finally:
            for hook in hooks:
                hook.remove()


class WithMaps(nn.Module):
    """A head whose outputs are the logits, then the maps that `MAPS` names."""

    def __init__(self, head: _MainHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:  # noqa: D102
        return self.head.logits_and_maps(pixels)
