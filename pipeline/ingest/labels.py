"""Labels, splits and identities as data sets write them."""

import re
from typing import Any, Final

from common.errors import UserError

Label = int | None  # 1 yes, 0 no, None unknown
# A label as it is written: 1, 0 or -1, `FALSE`, or None if it is empty. What 0 means depends on the labels of
# the whole data set. If -1 occurs in it, it is written in CelebA's notation: 1 yes, -1 no, 0 unknown.
# Otherwise 1 is yes and 0 is no.
RawLabel = int | None
FALSE: Final = 2  # The word false, which is no in both notations

_RAW_LABELS: Final[dict[str, RawLabel]] = {
    **dict.fromkeys(("1", "1.0", "true"), 1),
    **dict.fromkeys(("0", "0.0"), 0),
    **dict.fromkeys(("-1", "-1.0"), -1),
    "false": FALSE,
    **dict.fromkeys(("", "nan", "none", "null")),
}


def read_raw_label(value: Any, where: str, name: str) -> RawLabel:
    """The raw label `name` in a cell of a table or a value of a JSON object.

    Raises:
        UserError: it is none of 1, 0, -1, true, false, NaN or empty; the message starts with `where`.
    """
    text = str(value).strip().lower()
    if text not in _RAW_LABELS:
        raise UserError(
            f"{where}, {name}: {value!r:.60} is none of 1, 0, -1, true, false, NaN or empty; fix it, or "
            f"leave {name} out"
        )
    return _RAW_LABELS[text]


def read_identity(value: Any) -> str | None:
    """The person that a cell of a table or a JSON value names; 11 and 11.0 are one. None if it is empty."""
    if value is None or value != value or value == "":
        return None
    return re.sub(r"^(-?\d+)\.0+$", r"\1", str(value))


# Names of the column of splits, in lower case.
SPLIT_COLUMNS: Final = ("split", "partition", "set", "subset", "fold")
# Names of columns that tell whether a photo is in one split, in lower case.
_SPLIT_FLAG: Final = re.compile(r"(is_?)?(train(ing)?|val(id(ation)?)?|test(ing)?)(_?(set|split))?")
PARTITIONS: Final = {"0": "train", "1": "val", "2": "test"}  # CelebA's numbers

_SPLITS: Final[dict[str, str | None]] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("", "unlabelled")),
}


def read_split(value: Any, where: str, name: str = "split") -> str | None:
    """The split that a cell of a table or a JSON value names, in capitals or not; None if it is empty.

    In a column called partition it may be one of `PARTITIONS`.

    Raises:
        UserError: it names none; the message starts with `where`.
    """
    text = "" if value is None or value != value else str(value).strip().lower()
    splits = {**_SPLITS, **PARTITIONS} if name == "partition" else _SPLITS
    if text not in splits:
        raise UserError(f"{where}, {name}: {value!r:.60} is none of train, val (validation), test or empty")
    return splits[text]


def check_no_split(name: str, where: str) -> None:
    """Check that a label or another value is not named as splits are, which would be drawn anew.

    Raises:
        UserError: it is; the message starts with `where`.
    """
    if name.lower() in SPLIT_COLUMNS or _SPLIT_FLAG.fullmatch(name.lower()):
        raise UserError(
            f"{where}: {name!r} looks like splits; name it 'split', with the words train, val and test, or "
            "leave it out"
        )


_SPLIT_NAME: Final = re.compile(
    r"(?<![a-z])(train(?:ing)?|val(?:id(?:ation)?)?|test(?:ing)?)(?![a-z])", re.IGNORECASE
)


def split_in_name(name: str) -> str | None:
    """The split that a file's name holds as a word, such as ``labels_train.csv``; None if none or several."""
    words = {_SPLITS[word.lower()] for word in _SPLIT_NAME.findall(name)}
    return words.pop() if len(words) == 1 else None
