"""How labels are spelled, and label files as numbered lines."""

from collections.abc import Iterator
from enum import Enum
from typing import Any, Final

from common.errors import UserError
from common.storage import Address

Label = int | None
"""1 yes, 0 no, None unknown."""


class Spelled(Enum):
    """A label as it is written; what 0 says depends on the others."""

    YES = "1"
    MINUS = "-1"
    ZERO = "0"
    FALSE = "false"
    UNKNOWN = ""


_SPELLINGS: Final = {
    "1": Spelled.YES,
    "1.0": Spelled.YES,
    "true": Spelled.YES,
    "-1": Spelled.MINUS,
    "-1.0": Spelled.MINUS,
    "0": Spelled.ZERO,
    "0.0": Spelled.ZERO,
    "false": Spelled.FALSE,
    "": Spelled.UNKNOWN,
    "nan": Spelled.UNKNOWN,
    "none": Spelled.UNKNOWN,
    "null": Spelled.UNKNOWN,
}


def spelled(value: Any, where: str) -> Spelled:
    """How a cell of a table or a value of a JSON object spells a label.

    Raises:
        UserError: it is none of 1, 0, -1, true, false, NaN or empty; the message starts with `where`.
    """
    found = _SPELLINGS.get(str(value).strip().lower())
    if found is None:
        raise UserError(f"{where}: {value!r} is none of 1, 0, -1, true, false, NaN or empty")
    return found


def settle(rows: list[tuple[Spelled, ...] | None]) -> list[tuple[Label, ...] | None]:
    """What the labels of a whole data set say.

    A data set is written in one of two notations. If -1 occurs anywhere in it, it is CelebA's:
    1 yes, -1 no, 0 unknown. Otherwise 1 is yes and 0 is no.
    """
    signed = any(Spelled.MINUS in row for row in rows if row is not None)
    meaning: dict[Spelled, Label] = {
        Spelled.YES: 1,
        Spelled.MINUS: 0,
        Spelled.FALSE: 0,
        Spelled.ZERO: None if signed else 0,
        Spelled.UNKNOWN: None,
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
