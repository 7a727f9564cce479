"""The spellings of labels and of splits."""

import re
from typing import Any, Final

from common.errors import UserError

Label = int | None
"""1 yes, 0 no, None unknown."""


Spelling = int | None
"""A label as it is written: 1, 0 or -1, `FALSE`, or None if it is empty. What 0 means depends on the labels
of the whole data set. If -1 occurs in it, it is written in CelebA's notation: 1 yes, -1 no, 0 unknown.
Otherwise 1 is yes and 0 is no."""

FALSE: Final = 2
"""The word false, which is no in both notations."""

_SPELLINGS: Final[dict[str, Spelling]] = {
    **dict.fromkeys(("1", "1.0", "true"), 1),
    **dict.fromkeys(("0", "0.0"), 0),
    **dict.fromkeys(("-1", "-1.0"), -1),
    "false": FALSE,
    **dict.fromkeys(("", "nan", "none", "null")),
}


def read_spelling(value: Any, where: str, name: str) -> Spelling:
    """The spelling of the label `name` in a cell of a table or a value of a JSON object.

    Raises:
        UserError: it is none of 1, 0, -1, true, false, NaN or empty; the message starts with `where`.
    """
    text = str(value).strip().lower()
    if text not in _SPELLINGS:
        raise UserError(
            f"{where}, {name}: {value!r:.60} is none of 1, 0, -1, true, false, NaN or empty; fix it, or "
            f"leave {name} out"
        )
    return _SPELLINGS[text]


def read_identity(value: Any) -> str | None:
    """The person that a cell of a table or a JSON value names; 11 and 11.0 are one. None if it is empty."""
    if value is None or value != value or value == "":
        return None
    return re.sub(r"^(-?\d+)\.0+$", r"\1", str(value))


SPLIT_COLUMNS: Final = ("split", "partition", "set", "subset", "fold")
"""Names of the column of splits, in lower case."""

SPLIT_FLAG: Final = re.compile(r"(is_?)?(train(ing)?|val(id(ation)?)?|test(ing)?)(_?(set|split))?")
"""Names of columns that tell of one split alone, in lower case."""

_PARTITION: Final = {"0": "train", "1": "val", "2": "test"}
"""CelebA's numbers."""

_SPLITS: Final = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
    "": None,
    "unlabelled": None,
}


def read_split(value: Any, where: str) -> str | None:
    """The split that a cell of a table or a JSON value names, in capitals or not; None if it is empty.

    Raises:
        UserError: it names none; the message starts with `where`.
    """
    text = "" if value is None or value != value else str(value).strip().lower()
    if text not in _SPLITS:
        raise UserError(f"{where}: the split {value!r:.60} is none of train, val (validation), test or empty")
    return _SPLITS[text]


_SPLIT_NAME: Final = re.compile(
    r"(?<![a-z])(train(?:ing)?|val(?:id(?:ation)?)?|test(?:ing)?)(?![a-z])", re.IGNORECASE
)


def split_in_name(name: str) -> str | None:
    """The split that a file's name holds as a word, such as ``labels_train.csv``; None if none or several."""
    words = {_SPLITS[word.lower()] for word in _SPLIT_NAME.findall(name)}
    return words.pop() if len(words) == 1 else None
