"""Files that appear whole or not at all, wherever they lie."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from upath import UPath

from common.errors import UserError
from common.storage import Address

FULL: Final = (errno.ENOSPC, errno.EDQUOT)
"""What the system says when a disk, or one's share of it, is used up."""


@contextmanager
def replacing(place: Address) -> Iterator[Path]:
    """Give a local temporary file to write to; make it `place` if nothing went wrong.

    On a local disk it is synced and renamed; elsewhere it is uploaded at the end, which
    object stores do whole or not at all.

    Raises:
        UserError: the disk is full.
        OSError: the file could not be written (no permission).
    """
    try:
        with _beside(place) if isinstance(place, Path) else _uploading(place) as temporary:
            yield temporary
    except OSError as error:
        if error.errno in FULL:
            raise UserError(
                f"{place}: the disk is full; make space, then run the same command again, "
                "it goes on where this one ended"
            ) from error
        raise


@contextmanager
def _beside(place: Path) -> Iterator[Path]:
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f".{place.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as claim:
            # The lock ends with the process, so it tells living writers' files from dead ones' better than
            # a process id, which the next container uses again. Some network disks have no locks.
            with suppress(OSError):
                fcntl.flock(claim, fcntl.LOCK_EX)
            yield temporary
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            temporary.replace(place)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _uploading(place: UPath) -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        temporary = Path(folder, place.name)
        yield temporary
        place.fs.put_file(str(temporary), place.path)


def remove_partials(folder: Address) -> None:
    """Delete the temporary files that killed processes left in `folder`; living ones keep theirs."""
    if not isinstance(folder, Path):
        return
    for temporary in folder.glob(".*.partial"):
        with suppress(OSError), temporary.open("r+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            temporary.unlink()


def write_text(place: Address, text: str) -> None:
    """Write UTF-8 text to `place`, whole or not at all."""
    with replacing(place) as temporary:
        temporary.write_text(text, encoding="utf-8")
