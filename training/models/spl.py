"""The ``spl`` network: a pre-activation ResNet-18 backbone and four cross-attention branches.

From the journal extension of SSPL (SPL-Net). Both inputs of stage 1 share the
backbone; each branch (whole, upper, middle, lower face) is a chain of units, one after
every backbone stage.
"""

from collections.abc import Collection
from typing import Final

from torch import Tensor, nn

from training.models.blocks import (
    BRANCHES,
    CrossAttentionUnit,
    Features,
    PreActivationBlock,
    activation,
    convolution,
    initialise,
)


class SplNetwork(nn.Module):
    """Backbone and branches.

    Args:
        width: channels of the first stage; the last has eight times as many.
        stem: ``large`` (7x7 stride 2, max-pool; total stride 32) or ``small`` (3x3
            stride 2; total stride 16), for small inputs.
        branch_stage: the first of the stages 0..3 that has units; 0 as published.
    """

    takes_rows: Final = False

    def __init__(self, width: int, stem: str, branch_stage: int = 0) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.channels, self.branch_stage = widths[-1], branch_stage
        self.stem = nn.Sequential(
            convolution(3, width, 7 if stem == "large" else 3, stride=2), activation(width)
        )
        if stem == "large":
            self.stem.append(nn.MaxPool2d(3, stride=2, padding=1))
        self.stages = nn.ModuleList(
            nn.Sequential(
                PreActivationBlock(widths[max(0, i - 1)], widths[i], stride=1 if i == 0 else 2),
                PreActivationBlock(widths[i], widths[i], stride=1),
            )
            for i in range(4)
        )
        self.branches = nn.ModuleDict(
            {
                name: nn.ModuleList(
                    CrossAttentionUnit(widths[max(branch_stage, i - 1)], widths[i])
                    for i in range(branch_stage, 4)
                )
                for name in BRANCHES
            }
        )
        initialise(self)

    def forward(self, images: Tensor, branches: bool = True) -> Features:
        """Features of float (B, 3, S, S) images; without branches, the backbone's alone."""
        backbone = self.stem(images)
        regions: dict[str, Tensor] = {}
        for i, stage in enumerate(self.stages):
            backbone = stage(backbone)
            if branches and i >= self.branch_stage:
                for name, units in self.branches.items():
                    assert isinstance(units, nn.ModuleList)
                    unit, before = units[i - self.branch_stage], regions.get(name, backbone)
                    regions[name] = unit(before, backbone)
        return Features(backbone, regions)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """All parameters, as ``backbone`` and ``branches``."""
        return {
            "backbone": [*self.stem.parameters(), *self.stages.parameters()],
            "branches": list(self.branches.parameters()),
        }

    def freeze_unread(self, read: Collection[str]) -> None:
        """Stop training the branches whose gradient no task asks for (``backbone`` is always trained)."""
        for name, units in self.branches.items():
            units.requires_grad_(name in read)
