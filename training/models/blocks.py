"""The building blocks of the networks, and the features that every network passes to the heads."""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from training.models.cpu_ops import GlobalAverage, PReLU, mean

BRANCHES: Final = ("whole", "upper", "middle", "lower")
LOCAL_BRANCHES: Final = BRANCHES[1:]


@dataclass(frozen=True)
class Features:
    """The features of a batch of images.

    Attributes:
        backbone: last stage, float (B, C, h, w).
        branches: by name, float (B, C, h, w); empty if they were not requested.
    """

    backbone: Tensor
    branches: dict[str, Tensor]


def initialise(network: nn.Module) -> None:
    """Kaiming-normal (fan out) convolutions, as published."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the size at stride 1."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


def activation(channels: int) -> nn.Sequential:
    """Batch normalisation, then PReLU with one slope."""
    return nn.Sequential(nn.BatchNorm2d(channels), PReLU())


class PreActivationBlock(nn.Module):
    """Pre-activation residual block (He et al. 2016) with PReLU.

    Shape: (B, inputs, H, W) to (B, outputs, H / stride, W / stride).
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.before = activation(inputs)
        self.first = convolution(inputs, outputs, stride=stride)
        self.between = activation(outputs)
        self.second = convolution(outputs, outputs)
        changes = stride != 1 or inputs != outputs
        self.shortcut = convolution(inputs, outputs, 1, stride) if changes else None

    def forward(self, features: Tensor) -> Tensor:
        """Return the block's features."""
        active = self.before(features)
        skip = features if self.shortcut is None else self.shortcut(active)
        return skip + self.second(self.between(self.first(active)))


class CrossAttentionUnit(nn.Module):
    """Joins a branch's features with the backbone's features of one stage.

    Where the widths differ, the branch's features are first brought to the backbone's width
    and half their size. The channel path weighs the concatenated channels by
    squeeze-excitation (reduction 16) and convolves them to C; the spatial path weighs the
    sum of both by a map of its channel-wise mean and maximum. The result is their sum.

    Shapes: branch (B, inputs, H, W) or (B, inputs, 2H, 2W), backbone (B, C, H, W) to (B, C, H, W).
    """

    def __init__(self, inputs: int, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.adapt = (
            nn.Sequential(
                activation(inputs),
                convolution(inputs, channels),
                activation(channels),
                nn.MaxPool2d(3, stride=2, padding=1),
            )
            if inputs != channels
            else nn.Identity()
        )
        both = 2 * channels
        self.excite = nn.Sequential(
            GlobalAverage(),
            nn.Conv2d(both, max(1, both // reduction), 1, bias=False),
            PReLU(),
            nn.Conv2d(max(1, both // reduction), both, 1, bias=False),
            nn.Sigmoid(),
        )
        self.channel = nn.Sequential(activation(both), convolution(both, channels), activation(channels))
        self.spatial = nn.Sequential(activation(2), convolution(2, 1), nn.BatchNorm2d(1), nn.Sigmoid())

    def forward(self, branch: Tensor, backbone: Tensor) -> Tensor:
        """Return the branch's features after this stage."""
        branch = self.adapt(branch)
        both = torch.cat((branch, backbone), dim=1)
        channel = self.channel(both * (1 + self.excite(both)))
        total = branch + backbone
        where = self.spatial(torch.cat((mean(total, 1), total.amax(1, keepdim=True)), dim=1))
        return torch.addcmul(channel, total, 1 + where)


class CrissCrossAttention(nn.Module):
    """Criss-cross attention (Huang et al. 2019): every position attends to its row and its column.

    Shape: (B, C, H, W) to (B, C, H, W). The residual weight starts at 0.
    """

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        inner = max(1, channels // reduction)
        self.query = nn.Conv2d(channels, inner, 1)
        self.key = nn.Conv2d(channels, inner, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, features: Tensor) -> Tensor:
        """Return the features after one recurrence."""
        query, key, value = self.query(features), self.key(features), self.value(features)
        height = features.shape[-2]
        column = torch.einsum("bchw,bcgw->bhwg", query, key)
        # A position lies in its row and its column; it is counted in the row alone.
        itself = torch.eye(height, dtype=torch.bool, device=features.device)[None, :, None, :]
        column = column.masked_fill(itself, float("-inf"))
        row = torch.einsum("bchw,bchg->bhwg", query, key)
        attention = torch.cat((column, row), dim=-1).float().softmax(dim=-1).to(value.dtype)
        gathered = torch.einsum("bhwg,bcgw->bchw", attention[..., :height], value)
        gathered = gathered + torch.einsum("bhwg,bchg->bchw", attention[..., height:], value)
        return features + self.weight.to(features.dtype) * gathered
