"""The networks of SSPL: ``spl`` of the journal extension (SPL-Net), and ``sspl`` of the CVPR 2021 paper."""

from collections.abc import Collection
from itertools import pairwise, starmap
from typing import Final

import torch
from torch import Tensor, nn

from training.models.backbone import image_stem, residual_stages
from training.models.blocks import (
    BRANCHES,
    LOCAL_BRANCHES,
    CrossAttentionUnit,
    Features,
    PreActivationBlock,
    activation,
    convolution,
    initialise,
)


class SplNetwork(nn.Module):
    """A pre-activation ResNet-18 backbone and four cross-attention branches, as in the journal extension.

    Both inputs of stage 1 share the backbone; each branch (whole, upper, middle, lower face) is a chain
    of units, one after every backbone stage from `branch_stage` on, 0 as published. The first stage has
    `width` channels, and the last eight times as many. The `stem` is ``large`` (7x7 stride 2, max-pool;
    total stride 32) or, for small inputs, ``small`` (3x3 stride 2; total stride 16).
    """

    takes_rows: Final = False

    def __init__(self, width: int, stem: str, branch_stage: int = 0) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.channels, self.branch_stage = widths[-1], branch_stage
        self.stem = image_stem(width, stem, activation(width))
        self.stages, self.branches = nn.ModuleList(), nn.ModuleDict()
        for before, channels in pairwise([width, *widths]):
            block = PreActivationBlock(before, channels, stride=2 if len(self.stages) else 1)
            self.stages.append(nn.Sequential(block, PreActivationBlock(channels, channels, stride=1)))
        for name in BRANCHES:
            attended = [widths[branch_stage], *widths[branch_stage:]]
            self.branches[name] = nn.ModuleList(starmap(CrossAttentionUnit, pairwise(attended)))
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


class SsplNetwork(nn.Module):
    """Four ResNet-18 branches that attend to each other; the last features of ``whole`` are the backbone's.

    After every stage the whole branch attends to the aggregate (1x1 convolution) of the three local ones,
    and each local branch attends to the whole one. The inner structure of the attention of 2021 was not at
    hand; the journal's unit is used, without the step that changes the width. See also `SplNetwork`.
    """

    takes_rows: Final = True

    def __init__(self, width: int, stem: str) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(4)]
        self.channels = widths[-1]
        self.stems = nn.ModuleDict({name: image_stem(width, stem) for name in BRANCHES})
        self.stages = nn.ModuleDict(
            {name: nn.ModuleList(residual_stages("resnet18", width)) for name in BRANCHES}
        )
        self.aggregates = nn.ModuleList(convolution(3 * channels, channels, kernel=1) for channels in widths)
        self.units = nn.ModuleDict()
        for name in BRANCHES:
            self.units[name] = nn.ModuleList(CrossAttentionUnit(channels, channels) for channels in widths)
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
