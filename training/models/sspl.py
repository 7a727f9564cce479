"""The ``sspl`` network of the CVPR 2021 paper: four ResNet-18 branches that attend to each other.

After every stage the whole branch attends to the aggregate (1x1 convolution) of the three
local ones, and each local branch attends to the whole one. The inner structure of the attention of
2021 was not at hand; the journal's unit is used, without the step that changes the width.
"""

from collections.abc import Collection
from typing import Final

import torch
from torch import Tensor, nn

from training.models.backbone import residual_stages, residual_stem
from training.models.blocks import (
    BRANCHES,
    LOCAL_BRANCHES,
    CrossAttentionUnit,
    Features,
    convolution,
    initialise,
)


class SsplNetwork(nn.Module):
    """Four branches; the whole branch's last features stand for the backbone's.

    Args:
        width: channels of the first stage; the last has eight times as many.
        stem: ``large`` or ``small``, see `residual_stem`.
    """

    takes_rows: Final = True

    def __init__(self, width: int, stem: str) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(4)]
        self.channels = widths[-1]
        self.stems = nn.ModuleDict({name: residual_stem(width, stem) for name in BRANCHES})
        self.stages = nn.ModuleDict(
            {name: nn.ModuleList(residual_stages("resnet18", width)) for name in BRANCHES}
        )
        self.aggregates = nn.ModuleList(convolution(3 * channels, channels, kernel=1) for channels in widths)
        self.units = nn.ModuleDict(
            {
                name: nn.ModuleList(CrossAttentionUnit(channels, channels) for channels in widths)
                for name in BRANCHES
            }
        )
        initialise(self)

    def forward(self, images: Tensor | dict[str, Tensor], branches: bool = True) -> Features:
        """Features of float (B, 3, S, S) images, one for all branches or one for each by name."""
        given = images if isinstance(images, dict) else dict.fromkeys(BRANCHES, images)
        seen = {name: self.stems[name](given[name]) for name in BRANCHES}
        for i, aggregate in enumerate(self.aggregates):
            seen = {name: self._of(self.stages, name)[i](seen[name]) for name in BRANCHES}
            local = aggregate(torch.cat([seen[name] for name in LOCAL_BRANCHES], dim=1))
            read = BRANCHES if branches or i + 1 < len(self.aggregates) else ("whole",)
            seen = {
                name: self._of(self.units, name)[i](seen[name], local if name == "whole" else seen["whole"])
                for name in read
            }
        return Features(seen["whole"], seen if branches else {})

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """All parameters: residual stages as ``backbone``, what joins them as ``branches``."""
        return {
            "backbone": [*self.stems.parameters(), *self.stages.parameters()],
            "branches": [*self.aggregates.parameters(), *self.units.parameters()],
        }

    def freeze_unread(self, read: Collection[str]) -> None:
        """Stop training the last units that no task asks for; all before them serve the other branches."""
        for name in LOCAL_BRANCHES:
            self._of(self.units, name)[-1].requires_grad_(name in read)
        whole = "whole" in read or "backbone" in read
        self._of(self.units, "whole")[-1].requires_grad_(whole)
        self.aggregates[-1].requires_grad_(whole)

    def _of(self, by_branch: nn.ModuleDict, name: str) -> nn.ModuleList:
        layers = by_branch[name]
        assert isinstance(layers, nn.ModuleList)
        return layers
