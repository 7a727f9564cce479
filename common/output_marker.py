"""The mark in folders of output, which keeps them from being read as photos when they lie inside an input."""

from pathlib import Path
from typing import Final

from common.errors import UserError
from common.files import write_text
from common.storage import Address, is_file

MARKER: Final = ".output-not-input"

OWN_OUTPUT: Final = ("own-output", "a folder of this project's output, which is no input")


def mark_new(folder: Path, flag: str) -> None:
    """Mark a folder of output that holds nothing else.

    Raises:
        UserError: it holds other files, which the mark would hide; names the `flag` that chose it.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARKER).is_file():
        raise UserError(f"{folder} holds other files; name a new folder with {flag}")
    mark_output(folder)


def mark_output(folder: Address) -> None:
    """Mark a folder whose files are output; it is made if it is missing."""
    if not is_file(folder / MARKER):
        write_text(folder / MARKER, "The files in this folder are output, and are not read as photos.\n")
