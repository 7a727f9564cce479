"""Which branch predicts which attribute."""

from typing import Final

from contract.attributes import CELEBA_ATTRIBUTES
from training.networks import BRANCHES

CELEBA_GROUPS: Final = {
    "whole": (0, 2, 10, 13, 18, 20, 25, 26, 31, 32, 33, 39),
    "upper": (1, 3, 4, 5, 8, 9, 11, 12, 15, 17, 23, 28, 35),
    "middle": (7, 19, 27, 29, 30, 34),
    "lower": (6, 14, 16, 21, 22, 24, 36, 37, 38),
}
"""Positions in CelebA's attribute file, as published with SSPL."""

_BRANCH_OF: Final = {
    CELEBA_ATTRIBUTES[position]: branch
    for branch, positions in CELEBA_GROUPS.items()
    for position in positions
}


def branch_groups(attributes: tuple[str, ...]) -> dict[str, list[int]]:
    """Positions in `attributes` by branch; a name that is not CelebA's goes to the whole face."""
    groups: dict[str, list[int]] = {branch: [] for branch in BRANCHES}
    for position, name in enumerate(attributes):
        groups[_BRANCH_OF.get(name, "whole")].append(position)
    return {branch: positions for branch, positions in groups.items() if positions}
