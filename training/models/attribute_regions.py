"""Which face regions show which attribute, from a data file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from common.classes import CLASSES
from common.errors import UserError
from common.strict_yaml import read_yaml

CELEBA_REGIONS: Final = Path(__file__).with_suffix(".yaml")
"""The regions of CelebA's attributes."""

PAIRS: Final = {
    "brow": ("l_brow", "r_brow"),
    "eye": ("l_eye", "r_eye"),
    "ear": ("l_ear", "r_ear"),
    "lip": ("u_lip", "l_lip"),
}
"""Names that stand for two classes."""

Regions = Mapping[str, Sequence[str]]
"""Names of regions by attribute."""


def read_regions(file: Path = CELEBA_REGIONS) -> dict[str, list[str]]:
    """Names of regions by attribute.

    Args:
        file: YAML, a list of classes of the masks or of names in `PAIRS` under each attribute.

    Raises:
        UserError: the file cannot be read, is not such a mapping, or names an unknown region.
    """
    regions = read_yaml(file, "attributes and regions, as finetune.regions should be")
    if not isinstance(regions, dict) or not all(isinstance(names, list) for names in regions.values()):
        raise UserError(f"{file}: expected a list of regions under each attribute")
    known = (*CLASSES, *PAIRS)
    for attribute, names in regions.items():
        for name in names:
            if name not in known:
                raise UserError(f"{file}: {attribute} has region {name!r}; known are {', '.join(known)}")
    return regions


def region_classes(attributes: Sequence[str], regions: Regions) -> list[tuple[int, ...]]:
    """The classes of each attribute's regions, ascending; none for an attribute that is not listed."""
    names = [
        {each for name in regions.get(attribute, ()) for each in PAIRS.get(name, (name,))}
        for attribute in attributes
    ]
    return [tuple(position for position, name in enumerate(CLASSES) if name in each) for each in names]
