"""The spellings of labels, and label files as numbered lines."""

from collections.abc import Iterator
from enum import Enum
from typing import Any, Final

from common.errors import UserError
from common.storage import Address

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


def read_spelling(value: Any, where: str) -> Spelling:
    """The spelling of a label in a cell of a table or a value of a JSON object.

    Raises:
        UserError: it is none of 1, 0, -1, true, false, NaN or empty; the message starts with `where`.
    """
    spelling = _SPELLINGS.get(str(value).strip().lower())
    if spelling is None:
        raise UserError(f"{where}: {value!r} is none of 1, 0, -1, true, false, NaN or empty")
    return spelling


def interpret(rows: list[tuple[Spelling, ...] | None]) -> list[tuple[Label, ...] | None]:
    """The labels that the spellings of a whole data set mean.

    A data set is written in one of two notations. If -1 occurs anywhere in it, it is CelebA's:
    1 yes, -1 no, 0 unknown. Otherwise 1 is yes and 0 is no.
    """
    signed = any(Spelling.MINUS in row for row in rows if row is not None)
    meaning: dict[Spelling, Label] = {
        Spelling.YES: 1,
        Spelling.MINUS: 0,
        Spelling.FALSE: 0,
        Spelling.ZERO: None if signed else 0,
        Spelling.UNKNOWN: None,
    }
    return [None if row is None else tuple(meaning[label] for label in row) for row in rows]


def numbered_lines(file: Address) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 text file that are not blank, with their numbers from 1.

    Raises:
        UserError: the file is not UTF-8 text.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield number, line
