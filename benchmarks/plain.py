"""The network as the formulas are usually typed: what the faster forms are measured and tested against."""

from types import MethodType

import torch
from torch import Tensor, nn

from training.models.blocks import CrossAttentionUnit, PReLU


def plain_unit(unit: CrossAttentionUnit, branch: Tensor, backbone: Tensor) -> Tensor:
    """`CrossAttentionUnit`, one operation per line of its description; shapes are the same."""
    branch = unit.adapt(branch)
    both = torch.cat((branch, backbone), dim=1)
    channel = unit.channel(both + both * unit.excite[1:](nn.functional.adaptive_avg_pool2d(both, 1)))
    total = branch + backbone
    mean, greatest = total.mean(1, keepdim=True), total.amax(1, keepdim=True)
    where = unit.spatial(torch.cat((mean, greatest), dim=1))
    return channel + total + total * where


def make_plain(model: nn.Module) -> None:
    """Let `model` compute by PyTorch's own PReLU and by `plain_unit`, with the weights that it has."""
    for module in model.modules():
        if isinstance(module, PReLU):
            module.__class__ = nn.PReLU  # type: ignore[assignment]
        if isinstance(module, CrossAttentionUnit):
            module.forward = MethodType(plain_unit, module)  # type: ignore[method-assign]
