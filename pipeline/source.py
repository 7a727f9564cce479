"""The bytes of a source: a file of the input folder, or a member of a tar in it.

A source is named relative to the input folder, with forward slashes; ``shard.tar::member``
is a member of an uncompressed tar.
"""

import io
import tarfile
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path
from typing import IO, Final

from common.storage import Address

MEMBER: Final = "::"
"""Between the name of a tar and the name of its member, as fsspec chains addresses."""

INDEXED_TARS: Final = 256
"""Tars per process whose member offsets are remembered."""


def read_source(root: Address, source: str) -> bytes:
    """All bytes of a source below `root`.

    Raises:
        OSError: it is missing or cannot be read.
    """
    with open_source(root, source) as stream:
        return stream.read()


def open_source(root: Address, source: str) -> AbstractContextManager[IO[bytes]]:
    """A source below `root` as a readable and seekable stream.

    Raises:
        OSError: it is missing or cannot be read.
    """
    file, inside, member = source.partition(f".tar{MEMBER}")
    return _open_member(root, f"{file}.tar", member) if inside else open_file(root, source)


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
            raise FileNotFoundError(f"{tar} has no member {member}")
        offset, size = offsets[member]
        stream.seek(offset)
        data = stream.read(size)
    if len(data) < size:
        raise OSError(f"{tar} ends inside this member")
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
