"""The encodings of label files, and label files as numbered lines."""

import codecs
from collections.abc import Iterator
from typing import Final

from common.errors import UserError
from common.storage import Address

FALLBACK: Final = "cp1252"
"""Windows-1252, a superset of Latin-1's letters: what is neither UTF-8 nor UTF-16 is read as this."""

_MARKS: Final = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_CHUNK: Final = 1 << 20


def encoding_of(file: Address) -> str:
    """The encoding of a text file: UTF-8 or UTF-16, with or without a byte order mark, or `FALLBACK`.

    Raises:
        UserError: the file is in none of them.
    """
    with file.open("rb") as stream:
        head = stream.read(_CHUNK)
        for mark, name in _MARKS.items():
            if head.startswith(mark):
                return name
        nulls = head.count(b"\0")
        if nulls > len(head) // 4:  # ASCII in UTF-16: every other byte is zero
            return "utf-16-be" if head[0::2].count(b"\0") > nulls // 2 else "utf-16-le"
        fitting = {name: codecs.lookup(name).incrementaldecoder() for name in ("utf-8", FALLBACK)}
        while head or fitting:
            for name in list(fitting):
                try:
                    fitting[name].decode(head, final=not head)
                except UnicodeDecodeError:
                    del fitting[name]
            if not head:
                break
            head = stream.read(_CHUNK)
    if not fitting:
        raise UserError(f"{file}: not text in UTF-8, UTF-16 or Windows-1252; save it as UTF-8")
    return next(iter(fitting))


def numbered_lines(file: Address) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers from 1.

    Raises:
        UserError: the file is not text.
    """
    try:
        text = file.read_text(encoding=encoding_of(file))
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file}: not text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield number, line
