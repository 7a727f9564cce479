"""The columns of FairFace's label files, which hold words instead of labels.

``fairface_label_train.csv`` and ``fairface_label_val.csv`` (Karkkainen and Joo, WACV 2021) have an
age group, a gender and a race per image; each becomes yes/no attributes, as UTKFace's do.
``service_test`` tells which images FairFace balanced for its own test of services, and is no label.
"""

from typing import Any, Final

from common.errors import UserError
from pipeline.ingest.labels import FALSE, Spelling

_AGES: Final = ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70")
_RACES: Final = (
    "White",
    "Black",
    "Indian",
    "East Asian",
    "Southeast Asian",
    "Middle Eastern",
    "Latino_Hispanic",
)
_VALUES: Final = {"gender": ("Female", "Male"), "age": _AGES, "race": _RACES}
COLUMNS: Final = frozenset({*_VALUES, "service_test"})
ATTRIBUTES: Final = (
    "Male",
    *(f"Age_{age.replace('-', '_').replace('more than 70', '70_116')}" for age in _AGES),
    *(race.replace(" ", "_") for race in _RACES),
)


def read_labels(row: dict[str, Any], where: str) -> tuple[Spelling, ...]:
    """The labels of a row, in the order of `ATTRIBUTES`.

    Raises:
        UserError: a cell is none of FairFace's values.
    """
    for name, values in _VALUES.items():
        if row[name] not in values:
            raise UserError(f"{where}, column {name}: {row[name]!r} is none of {', '.join(values)}")
    yes = [row["gender"] == "Male"]
    yes += [row[name] == value for name in ("age", "race") for value in _VALUES[name]]
    return tuple(1 if value else FALSE for value in yes)
