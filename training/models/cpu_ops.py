"""Operators that PyTorch computes slowly on a CPU: the same values and gradients by faster kernels."""

from typing import Any

import torch
from torch import Tensor, nn


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

    On a CPU, PyTorch's backward pass takes eight times as long as this one, and more time than
    all batch normalisations. Elsewhere, and when the model is compiled, this is ``nn.PReLU``.
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
