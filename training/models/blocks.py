"""What the networks are built from: their input, layers, and the features that they pass to the heads."""

from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEAN: Final = (0.485, 0.456, 0.406)  # ImageNet channel means, for values 0 to 1
STD: Final = (0.229, 0.224, 0.225)  # ImageNet channel standard deviations, for values 0 to 1


def resize_images(images: Tensor, size: int) -> Tensor:
    """Bilinear resize of uint8 or float (B, C, H, W) to float32 (B, C, size, size), antialiased.

    On the CPU, uint8 images are resized as uint8: ten times faster, rounded to integers after each axis.
    """
    if images.dtype != torch.uint8 or images.device.type != "cpu":
        images = images.float()
    resized = F.interpolate(images, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return resized.to(torch.float32, memory_format=torch.contiguous_format)


def to_input(images: Tensor, size: int) -> Tensor:
    """Resize uint8 or float 0..255 RGB images (B, 3, H, W) and normalise them: float32 (B, 3, size, size)."""
    mean, std = (torch.tensor(v).to(images.device, non_blocking=True)[:, None, None] for v in (MEAN, STD))
    resized = resize_images(images, size) if images.shape[-1] != size else images.float()
    normalised = (resized / 255 - mean) / std
    return normalised.contiguous(memory_format=torch.channels_last)


class _LeakyReLU(torch.autograd.Function):
    """PReLU with one slope, from kernels that are vectorised on a CPU."""

    @staticmethod
    def forward(context: Any, features: Tensor, slope: Tensor) -> Tensor:
        context.save_for_backward(features, slope)
        return torch.nn.functional.leaky_relu(features, slope.item())

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        features, slope = context.saved_tensors
        (gradient,) = gradients
        by_slope = (gradient * features.clamp(max=0)).sum()
        by_features = torch.ops.aten.leaky_relu_backward(gradient, features, slope.item(), False)
        return by_features, by_slope.to(slope.dtype).view_as(slope)


class PReLU(nn.PReLU):
    """``nn.PReLU`` with one slope: the same values and gradients, computed faster on a CPU.

    There, PyTorch's backward pass takes eight times as long, and more than all batch normalisations.
    Elsewhere, and when the model is compiled, this is ``nn.PReLU``.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Return the features with negative values scaled by the slope."""
        if features.device.type != "cpu" or torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return super().forward(features)
        return _LeakyReLU.apply(features, self.weight)


class _Mean(torch.autograd.Function):
    """A mean whose gradient is a view, not written out once per averaged element."""

    @staticmethod
    def forward(context: Any, features: Tensor, dimensions: tuple[int, ...]) -> Tensor:
        context.shape = features.shape
        return features.mean(dimensions, keepdim=True)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return (gradient * (gradient.numel() / context.shape.numel())).expand(context.shape), None


def mean(features: Tensor, *dimensions: int) -> Tensor:
    """The mean over `dimensions`, which are kept with size 1.

    PyTorch materialises the gradient of a mean in another memory layout than channels-last; adding it to
    the features' other gradients then takes twenty times as long as adding the view that is returned here.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return features.mean(dimensions, keepdim=True)
    return _Mean.apply(features, dimensions)


class GlobalAverage(nn.Module):
    """Mean over all positions: (B, C, H, W) to (B, C, 1, 1)."""

    def forward(self, features: Tensor) -> Tensor:
        """Return the means."""
        return mean(features, 2, 3)


BRANCHES: Final = ("whole", "upper", "middle", "lower")
LOCAL_BRANCHES: Final = BRANCHES[1:]


@dataclass(frozen=True)
class Features:
    """The features of a batch of images."""

    backbone: Tensor  # last stage, float (B, C, h, w)
    branches: dict[str, Tensor]  # by name, float (B, C, h, w); empty if they were not requested


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
