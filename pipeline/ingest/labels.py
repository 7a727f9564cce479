"""The spellings of labels and of splits."""

import re
from enum import Enum
from typing import Any, Final

from common.errors import UserError

Label = int | None
"""1 yes, 0 no, None unknown."""


class Spelling(Enum):
    """A label as it is written; the meaning of 0 depends on the other labels."""

    YES = "1"
    MINUS = "-1"
    ZERO = "0"
    FALSE = "false"
    UNKNOWN = ""


_SPELLINGS: Final = {
    "1": Spelling.YES,
    "1.0": Spelling.YES,
    "true": Spelling.YES,
    "-1": Spelling.MINUS,
    "-1.0": Spelling.MINUS,
    "0": Spelling.ZERO,
    "0.0": Spelling.ZERO,
    "false": Spelling.FALSE,
    "": Spelling.UNKNOWN,
    "nan": Spelling.UNKNOWN,
    "none": Spelling.UNKNOWN,
    "null": Spelling.UNKNOWN,
}


def read_spelling(value: Any, where: str, name: str) -> Spelling:
    """The spelling of the label `name` in a cell of a table or a value of a JSON object.

    Raises:
        UserError: it is none of 1, 0, -1, true, false, NaN or empty; the message starts with `where`.
    """
    spelling = _SPELLINGS.get(str(value).strip().lower())
    if spelling is None:
        raise UserError(
            f"{where}, {name}: {value!r} is none of 1, 0, -1, true, false, NaN or empty; fix it, or leave "
            f"{name} out"
        )
    return spelling


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
        raise UserError(f"{where}: the split {value!r} is none of train, val (validation), test or empty")
    return _SPLITS[text]


_SPLIT_NAME: Final = re.compile(
    r"(?<![a-z])(train(?:ing)?|val(?:id(?:ation)?)?|test(?:ing)?)(?![a-z])", re.IGNORECASE
)


def split_in_name(name: str) -> str | None:
    """The split that a file's name holds as a word, such as ``labels_train.csv``; None if none or several."""
    words = {_SPLITS[word.lower()] for word in _SPLIT_NAME.findall(name)}
    return words.pop() if len(words) == 1 else None


def interpret(rows: list[tuple[Spelling, ...] | None]) -> list[tuple[Label, ...] | None]:
    """The labels that the spellings of a whole data set mean.

    A data set is written in one of two notations. If -1 occurs anywhere in it, it is CelebA's:
    1 yes, -1 no, 0 unknown. Otherwise 1 is yes and 0 is no.
    """
    meaning = meanings(any(Spelling.MINUS in row for row in rows if row is not None))
    return [None if row is None else tuple(meaning[label] for label in row) for row in rows]


def meanings(signed: bool) -> dict[Spelling, Label]:
    """What the spellings mean in a data set in which -1 occurs, or in one in which it does not."""
    return {
        Spelling.YES: 1,
        Spelling.MINUS: 0,
        Spelling.FALSE: 0,
        Spelling.ZERO: None if signed else 0,
        Spelling.UNKNOWN: None,
    }
