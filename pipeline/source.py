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
from typing import IO, Final, Self

from common import storage
from common.images import check_bytes
from common.photo import Refused
from common.storage import Address, TransientError, is_local, store_errors

MEMBER: Final = "::"  # Between the name of a tar and the name of its member, as fsspec chains addresses
_IN_TAR: Final = re.compile(rf"(.*?\.tar){MEMBER}", re.IGNORECASE | re.DOTALL)

MISSING: Final = "the file does not exist"
# Whose content, such as a long name, is read whole.
_EXTENSIONS: Final = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip


class _Header(tarfile.TarInfo):
    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if header.size < 0 or (header.type in _EXTENSIONS and header.size > 1 << 20):
            raise tarfile.ReadError(f"a header says {header.size:,} bytes")
        return header


def read_headers(stream: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """The headers of the members of a tar, in its order; `stream` may be moved meanwhile.

    Raises:
        tarfile.TarError: the tar is damaged; the members before that were yielded.
    """
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    try:
        with tarfile.open(fileobj=stream, mode="r:", tarinfo=_Header) as archive:
            for entry in archive:
                if entry.size < 0:
                    raise tarfile.ReadError(f"a header says {entry.size:,} bytes")
                yield entry
                if archive.offset > size + tarfile.BLOCKSIZE:
                    raise tarfile.ReadError("it ends inside a member")
            stream.seek(archive.offset)
    except (ValueError, OverflowError) as error:  # numbers in the headers of extensions
        raise tarfile.ReadError(str(error)) from error
    while rest := stream.read(1 << 20):
        if rest.strip(b"\0"):
            raise tarfile.ReadError("it goes on after its end, as tars do that were joined with cat")


def read_source(root: Address, source: str) -> bytes:
    """All bytes of a source below `root`; errors are those of `open_source`."""
    if isinstance(root, Path) or _IN_TAR.match(source):
        with open_source(root, source) as stream:
            return stream.read()
    # Opening a remote file asks for its size first, which takes as long as its bytes.
    try:
        with store_errors(root):
            return storage.read_remote(root.fs, f"{root.path.rstrip('/')}/{source}")
    except OSError as error:
        raise _judged(root, source, error) from error


@contextmanager
def open_source(root: Address, source: str, max_pixels: int | None = None) -> Iterator[IO[bytes]]:
    """A source below `root` as a readable and seekable stream; a member of a tar is read whole.

    An error is a verdict on the source only if it tells something about the source itself: the store answers
    and has no such file, or a local file system says why this one path cannot be opened. Any other, such as
    an expired token or a server that is down, would be the same for every source. A member of a tar that is
    too large for an image of `max_pixels` is refused unread.

    Raises:
        Refused: the source is missing, may not be read, is too large, or breaks off.
        TransientError: the store refused or did not answer; names the source.
    """
    tar = _IN_TAR.match(source)
    path, member = (tar[1], source[tar.end() :]) if tar else (source, "")
    try:
        with (
            store_errors(root),
            _open_member(root, path, member, max_pixels) if tar else open_file(root, path) as stream,
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
        elif is_local(root) and not storage.is_transient(error):
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
            return storage.is_folder(root)
    return False


def open_file(root: Address, path: str) -> AbstractContextManager[IO[bytes]]:
    """The file `path` below `root`; names are used verbatim, by remote file systems too."""
    if isinstance(root, Path):
        return (root / path).open("rb")
    return root.fs.open(f"{root.path.rstrip('/')}/{path}", "rb")


def _open_member(
    root: Address, tar: str, member: str, max_pixels: int | None
) -> AbstractContextManager[IO[bytes]]:
    with open_file(root, tar) as stream:
        # The size is part of the cache's key, so that a replaced tar is indexed again.
        end = stream.seek(0, io.SEEK_END)
        offsets = _index(root, tar, end)
        if member not in offsets:
            raise Refused("unreadable", "the tar has no such member")
        offset, size = offsets[member]
        if offset + size > end:
            raise Refused("truncated", "the tar ends inside this member")
        if max_pixels is not None:
            check_bytes(size, max_pixels)
        stream.seek(offset)
        return io.BytesIO(stream.read(size))


@lru_cache(maxsize=256)  # tars per process
def _index(root: Address, tar: str, size: int) -> dict[str, tuple[int, int]]:
    offsets: dict[str, tuple[int, int]] = {}
    # Members before a damage can still be read.
    with open_file(root, tar) as stream, suppress(tarfile.TarError):
        offsets.update((entry.name, (entry.offset_data, entry.size)) for entry in read_headers(stream))
    return offsets
