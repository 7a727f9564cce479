"""The bytes of a source: a file of the input folder, or a member of a tar in it.

A source is named relative to the input folder, with forward slashes; ``shard.tar::member``
is a member of an uncompressed tar.
"""

import io
import re
import tarfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Final

from common.images import Refused
from common.storage import (
    Address,
    TransientError,
    is_folder,
    is_local,
    is_transient,
    read_remote,
    store_errors,
)

MEMBER: Final = "::"
"""Between the name of a tar and the name of its member, as fsspec chains addresses."""

_IN_TAR: Final = re.compile(rf"(.*?\.tar){MEMBER}", re.IGNORECASE | re.DOTALL)

MISSING: Final = "the file does not exist"

INDEXED_TARS: Final = 256
"""Tars per process whose member offsets are remembered."""


def read_source(root: Address, source: str) -> bytes:
    """All bytes of a source below `root`.

    Raises:
        Refused, TransientError: as for `open_source`.
    """
    if isinstance(root, Path) or _IN_TAR.match(source):
        with open_source(root, source) as stream:
            return stream.read()
    # Opening a remote file asks for its size first, which takes as long as its bytes.
    try:
        with store_errors(root):
            return read_remote(root.fs, f"{root.path.rstrip('/')}/{source}")
    except OSError as error:
        raise _judged(root, source, error) from error


@contextmanager
def open_source(root: Address, source: str) -> Iterator[IO[bytes]]:
    """A source below `root` as a readable and seekable stream.

    An error is a verdict on the source only if it tells something about the source itself: the store answers
    and has no such file, or a local file system says why this one path cannot be opened. Any other, such as
    an expired token or a server that is down, would be the same for every source.

    Raises:
        Refused: the source is missing, may not be read, or breaks off.
        TransientError: the store refused or did not answer; names the source.
    """
    tar = _IN_TAR.match(source)
    path, member = (tar[1], source[tar.end() :]) if tar else (source, "")
    try:
        with (
            store_errors(root),
            _open_member(root, path, member) if tar else open_file(root, path) as stream,
        ):
            yield stream
    except OSError as error:
        raise _judged(root, path, error) from error


def _judged(root: Address, path: str, error: OSError) -> Refused | TransientError:
    """What an error at a file below `root` means for the source."""
    reason = error.strerror or str(error)
    with suppress(OSError):
        if isinstance(error, FileNotFoundError):
            if _is_missing(root, path):
                return Refused("unreadable", MISSING)
        elif is_local(root) and not is_transient(error):
            return Refused("unreadable", reason)
    return TransientError(f"{root}/{path}: {reason}")


def _is_missing(root: Address, path: str) -> bool:
    """Whether the store answers that a folder `root` exists, but has no such file.

    An unmounted disk looks like an empty folder, and an unreachable bucket like none.
    """
    if isinstance(root, Path):
        return any(root.iterdir()) and not (root / path).exists()
    with store_errors(root):
        try:
            root.fs.info(f"{root.path.rstrip('/')}/{path}")
        except FileNotFoundError:
            return is_folder(root)
    return False


def open_file(root: Address, path: str) -> AbstractContextManager[IO[bytes]]:
    """The file `path` below `root`; names are used verbatim, by remote file systems too."""
    if isinstance(root, Path):
        return (root / path).open("rb")
    return root.fs.open(f"{root.path.rstrip('/')}/{path}", "rb")


def _open_member(root: Address, tar: str, member: str) -> AbstractContextManager[IO[bytes]]:
    with open_file(root, tar) as stream:
        # The size is part of the cache's key, so that a replaced tar is indexed again.
        offsets = _index(root, tar, stream.seek(0, io.SEEK_END))
        if member not in offsets:
            raise Refused("unreadable", "the tar has no such member")
        offset, size = offsets[member]
        stream.seek(offset)
        data = stream.read(size)
    if len(data) < size:
        raise Refused("truncated", "the tar ends inside this member")
    return io.BytesIO(data)


@lru_cache(maxsize=INDEXED_TARS)
def _index(root: Address, tar: str, size: int) -> dict[str, tuple[int, int]]:
    offsets = {}
    with open_file(root, tar) as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r:") as archive:
                for entry in archive:
                    offsets[entry.name] = (entry.offset_data, entry.size)
        except tarfile.TarError:
            return offsets  # members before the damage can still be read
    return offsets
