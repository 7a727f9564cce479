"""Files that appear whole or not at all, wherever they lie."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from contract.storage import Address


@contextmanager
def replacing(place: Address) -> Iterator[Path]:
    """Give a local temporary file to write to; make it `place` if nothing went wrong.

    On a local disk it is synced and renamed; elsewhere it is uploaded at the end, which
    object stores do whole or not at all.

    Raises:
        OSError: the file could not be written (a full disk, no permission).
    """
    if not isinstance(place, Path):
        with TemporaryDirectory() as folder:
            temporary = Path(folder, place.name)
            yield temporary
            place.fs.put_file(str(temporary), place.path)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f".{place.name}.{os.getpid()}.partial")
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(place)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(place: Address, text: str) -> None:
    """Write UTF-8 text to `place`, whole or not at all."""
    with replacing(place) as temporary:
        temporary.write_text(text, encoding="utf-8")
