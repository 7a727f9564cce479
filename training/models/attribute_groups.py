"""Which branch predicts which attribute, from a data file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from common.errors import UserError
from common.strict_yaml import read_yaml
from training.models import BRANCHES

CELEBA_FILE: Final = Path(__file__).with_suffix(".yaml")
"""CelebA's groups, as published with SSPL."""

Groups = Mapping[str, Sequence[str]]
"""Attribute names by branch."""


def read_groups(file: Path = CELEBA_FILE) -> dict[str, list[str]]:
    """Attribute names by branch.

    Args:
        file: YAML, a list of names under any of ``whole``, ``upper``, ``middle`` and ``lower``.

    Raises:
        UserError: the file cannot be read, is not such a mapping, or names an attribute twice.
    """
    groups = read_yaml(file, "attribute groups, as finetune.groups should be")
    if not isinstance(groups, dict) or not groups:
        raise UserError(f"{file}: expected a list of attribute names under any of {', '.join(BRANCHES)}")
    seen: set[str] = set()
    for branch, names in groups.items():
        if branch not in BRANCHES:
            raise UserError(
                f"{file}: {branch} is not a branch of the network, which are {', '.join(BRANCHES)}"
            )
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{file}: {branch} must be a list of attribute names")
        for name in names:
            if name in seen:
                raise UserError(f"{file}: {name} is listed twice; each attribute belongs to one branch")
            seen.add(name)
    return groups


def branch_groups(attributes: Sequence[str], groups: Groups | None = None) -> dict[str, list[int]]:
    """Positions in `attributes` by branch, without branches that have none.

    Args:
        attributes: names of the labels.
        groups: attribute names by branch, CelebA's by default. An attribute that is not listed
            belongs to ``whole``, so that other label sets make one group.
    """
    groups = read_groups() if groups is None else groups
    branch_of = {name: branch for branch, names in groups.items() for name in names}
    positions: dict[str, list[int]] = {branch: [] for branch in BRANCHES}
    for position, name in enumerate(attributes):
        positions[branch_of.get(name, "whole")].append(position)
    return {branch: members for branch, members in positions.items() if members}
