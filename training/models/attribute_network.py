"""The network of attributes: features of a face with one linear head per branch, which predicts a group."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.config import Network
from common.errors import UserError
from common.strict_yaml import read_yaml
from training.models import BRANCHES, build


class AttributeNetwork(nn.Module):
    """Logits of `attributes`, in this order; `groups` are attribute names by branch, CelebA's by default."""

    def __init__(
        self, config: Network, attributes: Sequence[str], groups: dict[str, list[str]] | None = None
    ) -> None:
        super().__init__()
        self.config, self.attributes = config, tuple(attributes)
        self.network = build(config)
        self.listed = read_groups() if groups is None else groups
        self.groups = branch_groups(attributes, self.listed)  # positions that each branch predicts
        self.heads = nn.ModuleDict(
            {branch: nn.Linear(self.network.channels, len(group)) for branch, group in self.groups.items()}
        )
        order = [position for group in self.groups.values() for position in group]
        self.register_buffer("inverse", torch.tensor(order).argsort(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, float (B, A), of normalised images, float (B, 3, S, S)."""
        pooled = self.pooled(images)
        logits = [head(pooled[branch]) for branch, head in self.heads.items()]
        inverse = self.get_buffer("inverse")
        return torch.cat(logits, dim=1)[:, inverse]

    def pooled(self, images: Tensor) -> dict[str, Tensor]:
        """What each head reads of normalised images, float (B, 3, S, S): by branch, float (B, C)."""
        branches = self.network(images).branches
        return {branch: branches[branch].mean(dim=(2, 3)) for branch in self.heads}

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """All parameters by the name of their group: ``backbone``, ``branches`` and ``heads``."""
        return {**self.network.parameter_groups(), "heads": list(self.heads.parameters())}


def attribute_loss(logits: Tensor, targets: Tensor, groups: dict[str, list[int]]) -> Tensor:
    """Binary cross-entropy: the mean over the known targets of each branch, summed over branches.

    Logits are float (B, A), targets (B, A), 0, 1 or a probability, -1 where unknown, which contributes
    nothing; `groups` are positions of the attributes by branch.
    """
    known = (targets >= 0).float()
    each = F.binary_cross_entropy_with_logits(logits.float(), targets.clamp(min=0).float(), reduction="none")
    terms = []
    for group in groups.values():
        weight = known[:, group]
        terms.append((each[:, group] * weight).sum() / weight.sum().clamp(min=1))
    return torch.stack(terms).sum()


def read_groups(named: str | Path | None = None) -> dict[str, list[str]]:
    """Attribute names by branch, by the YAML file `named`; None: CelebA's, as published with SSPL.

    The file has a list of names under any of ``whole``, ``upper``, ``middle`` and ``lower``.

    Raises:
        UserError: the file cannot be read, is not such a mapping, or names an attribute twice.
    """
    file = Path(__file__).with_name("attribute_groups.yaml") if named is None else Path(named)
    groups = read_yaml(file, "attribute groups, as finetune.groups should be")
    known, seen = ", ".join(BRANCHES), set[str]()
    if not isinstance(groups, dict) or not groups:
        raise UserError(f"{file}: expected a list of attribute names under any of {known}")
    for branch, names in groups.items():
        if branch not in BRANCHES:
            raise UserError(f"{file}: {branch} is not a branch of the network, which are {known}")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{file}: {branch} must be a list of attribute names")
        for name in names:
            if name in seen:
                raise UserError(f"{file}: {name} is listed twice; each attribute belongs to one branch")
            seen.add(name)
    return groups


def branch_groups(attributes: Sequence[str], groups: dict[str, list[str]]) -> dict[str, list[int]]:
    """Positions in `attributes` by branch, without branches that have none.

    An attribute that `groups` does not list belongs to ``whole``, so that other label sets make one group.
    """
    branch_of = {name: branch for branch, names in groups.items() for name in names}
    positions: dict[str, list[int]] = {branch: [] for branch in BRANCHES}
    for position, name in enumerate(attributes):
        positions[branch_of.get(name, "whole")].append(position)
    return {branch: members for branch, members in positions.items() if members}
