"""Straightforward forms of the network's blocks, which the faster forms are compared with."""

from types import MethodType

import torch
from torch import Tensor, nn

from training.models.blocks import CrossAttentionUnit, PReLU


def plain_unit(unit: CrossAttentionUnit, branch: Tensor, backbone: Tensor) -> Tensor:
    """`CrossAttentionUnit`, operation by operation as it is described; the shapes are the same."""
    branch = unit.adapt(branch)
    both = torch.cat((branch, backbone), dim=1)
    channel = unit.channel(both + both * unit.excite[1:](nn.functional.adaptive_avg_pool2d(both, 1)))
    total = branch + backbone
    mean, greatest = total.mean(1, keepdim=True), total.amax(1, keepdim=True)
    attention = unit.spatial(torch.cat((mean, greatest), dim=1))
    return channel + total + total * attention


def make_plain(model: nn.Module) -> None:
    """Make `model` use PyTorch's own PReLU and `plain_unit`, with its present weights."""
    for module in model.modules():
        if isinstance(module, PReLU):
            module.__class__ = nn.PReLU  # type: ignore[assignment]
        if isinstance(module, CrossAttentionUnit):
            module.forward = MethodType(plain_unit, module)  # type: ignore[method-assign]
