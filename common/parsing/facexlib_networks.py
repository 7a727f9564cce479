"""facexlib's two parsers, with checked weights: BiSeNet and ParseNet.

BiSeNet needs 448 to 512 pixels, whatever the stored size: on 200 CelebAMask-HQ faces its mean F1 is 0.81 at
448 and 0.53 at 256. Its auxiliary heads do not run. ParseNet is the parser of facexlib's face restoration.
"""

from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from common.classes import CELEBAMASK_HQ_CLASSES, CLASSES
from common.hardware import hardware, load_weights_only
from common.parsing.class_map import ClassMap
from common.parsing.network import Network

# ImageNet's normalisation, as in training. The weights do not tell left from right: see `assign_sides`.
BISENET: Final = ClassMap(
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

_HALF: Final = (0.5, 0.5, 0.5)
# Class order and normalisation as in facexlib's inference/inference_parsing_parsenet.py; the face restoration
# helper treats classes 14, 16, 17, 18 as no face, which fits that order.
PARSENET: Final = BISENET.model_copy(
    update={"mean": _HALF, "std": _HALF, "coarse": "centres", "classes": CELEBAMASK_HQ_CLASSES}
)
# Feature maps of BiSeNet: three stages of its ResNet, and what the logits are computed from.
MAPS: Final = ("stride8", "stride16", "stride32", "fused")


def load(kind: str, weights: Path, precision: str) -> Network:
    """A parser, ``bisenet`` or ``parsenet``, with checked weights in PyTorch, channels-last.

    `weights` is a file with facexlib's name, and `precision` a dtype of PyTorch, such as ``bfloat16``.
    """
    device = hardware().device
    network = bisenet(weights) if kind == "bisenet" else _facexlib("parsenet", weights)
    network = network.to(device).to(memory_format=torch.channels_last)

    def outputs(pixels: Tensor) -> tuple[Tensor, ...]:
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, getattr(torch, precision), enabled=precision != "float32"):
            results: tuple[Tensor, ...] = network(pixels)
        return results if kind == "bisenet" else (results[PARSENET.output].float(),)

    return Network(outputs, device)


def bisenet(weights: Path) -> nn.Module:
    """BiSeNet on the CPU: from pixels, float32 (B, 3, H, W), to logits (B, 19, H/8, W/8) and `MAPS`."""
    return _BiSeNet(_facexlib("bisenet", weights)).eval()


def _facexlib(kind: str, weights: Path) -> nn.Module:
    # Imported late, as torchvision behind it takes two seconds that a worker in int8 does not need.
    from facexlib.parsing import init_parsing_model

    load_weights_only()
    return init_parsing_model(kind, device="cpu", model_rootpath=str(weights.parent))


class _BiSeNet(nn.Module):
    """The main head, with the feature maps on the way to its logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.context, self.fusion, self.head = map(model.get_submodule, ("cp", "ffm", "conv_out"))

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        stages: list[Tensor] = []
        resnet = self.context.get_submodule("resnet")
        with resnet.register_forward_hook(lambda *call: stages.extend(call[2])):
            fine, coarse, _ = self.context(pixels)
        fused = self.fusion(fine, coarse)
        return self.head(fused)[0], *stages, fused
