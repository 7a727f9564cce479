"""Plain backbones: ResNets of torchvision's blocks, for comparison with the branches.

All four branches see the backbone's last features; only their heads differ.
"""

from collections.abc import Collection
from typing import Final

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from training.models.blocks import BRANCHES, Features, convolution, initialise

DEPTHS: Final[dict[str, tuple[type[BasicBlock | Bottleneck], tuple[int, ...]]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
}
"""Block and blocks per stage (He et al. 2016, table 1)."""


class BackboneNetwork(nn.Module):
    """A backbone whose last features serve all branches.

    Args:
        backbone: images (B, 3, S, S) to features (B, C, h, w).
        channels: C.
    """

    takes_rows: Final = False

    def __init__(self, backbone: nn.Module, channels: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.channels = channels

    def forward(self, images: Tensor, branches: bool = True) -> Features:
        """Features of float (B, 3, S, S) images."""
        backbone = self.backbone(images)
        return Features(backbone, dict.fromkeys(BRANCHES, backbone) if branches else {})

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """All parameters as ``backbone``; ``branches`` is empty."""
        return {"backbone": list(self.backbone.parameters()), "branches": []}

    def freeze_unread(self, read: Collection[str]) -> None:
        """Nothing to do: the branches have no weights of their own."""


def residual_stem(width: int, stem: str) -> nn.Sequential:
    """ResNet's stem: ``large`` (7x7 stride 2, max-pool) or ``small`` (3x3 stride 2)."""
    layers = nn.Sequential(
        convolution(3, width, 7 if stem == "large" else 3, stride=2),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )
    if stem == "large":
        layers.append(nn.MaxPool2d(3, stride=2, padding=1))
    return layers


def residual_stages(name: str, width: int) -> list[nn.Sequential]:
    """The four stages of a ResNet: 1, 2, 4 and 8 times `width`; bottlenecks put out four times that."""
    block, depths = DEPTHS[name]
    stages, inputs = [], width
    for i, depth in enumerate(depths):
        inner, stage = width * 2**i, nn.Sequential()
        for position in range(depth):
            stride = 2 if i > 0 and position == 0 else 1
            outputs = inner * block.expansion
            changes = stride != 1 or inputs != outputs
            skip = nn.Sequential(convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
            stage.append(block(inputs, inner, stride, skip if changes else None))
            inputs = outputs
        stages.append(stage)
    return stages


def residual_backbone(name: str, width: int, stem: str) -> tuple[nn.Module, int]:
    """A ResNet without its classifier, and its channels; at width 64 it is torchvision's."""
    backbone = nn.Sequential(residual_stem(width, stem), *residual_stages(name, width))
    initialise(backbone)
    return backbone, 8 * width * DEPTHS[name][0].expansion
