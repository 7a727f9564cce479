"""Local paths and fsspec addresses such as ``s3://bucket/celeba``, behind one type.

A local path stays an ordinary `pathlib.Path`; anything else is a `UPath` of
universal_pathlib, which offers the same methods over fsspec. Credentials and
endpoints come from the environment, as fsspec's implementations read them.
"""

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tarfile import TarError
from typing import Any, Final, TypeAlias

from upath import UPath

from common.errors import UserError

Address: TypeAlias = Path | UPath


def address(text: str | Address) -> Address:
    """The address that `text` names.

    Raises:
        UserError: its protocol is unknown, or the package that implements it is not installed.
    """
    try:
        if isinstance(path := UPath(text), Path):
            return Path(path)
        # Cached listings would hide what other processes have written since.
        path = UPath(text, use_listings_cache=False)
        path.fs.invalidate_cache()
    except (ImportError, ValueError) as error:
        raise UserError(f"{text}: cannot be reached ({error}); s3:// needs `pip install s3fs`") from error
    return path


def printable(name: str) -> str:
    """A path of a file system, with escapes for bytes that are not UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def check_utf8(flag: str, text: str) -> None:
    """Check that a path can be stored in settings and manifests.

    Raises:
        UserError: it has bytes that are not UTF-8; names the `flag` that it comes from.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        name = printable(text)
        raise UserError(f"{flag} {name}: the name is not UTF-8; rename it, or name it by a link") from error


def is_local(path: Address) -> bool:
    """Whether a path lies in this machine's file system."""
    return isinstance(path, Path)


# Errors of a local file system that are about one path or position and do not go away by themselves.
PERMANENT: Final = {
    errno.EACCES, errno.EEXIST, errno.EFBIG, errno.EINVAL, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG,
    errno.ENOENT, errno.ENOTDIR, errno.EOVERFLOW, errno.EPERM, errno.EROFS,
}  # fmt: skip


class TransientError(OSError):
    """A store refused or did not answer, which says nothing about what it holds; trying again may help."""


@contextmanager
def store_errors(path: Address) -> Iterator[None]:
    """Turn the exceptions of a remote file system, which have no common class, into `TransientError`.

    Those that tell what the store holds pass: a missing file, and errors of whoever reads its content.

    Raises:
        TransientError: the file system of `path` refused or did not answer; names `path` and the cause.
    """
    try:
        yield
    except (FileNotFoundError, LookupError, TarError, TransientError, TypeError, UserError, ValueError):
        raise
    except Exception as error:  # fsspec implementations do not document what they raise
        if is_local(path):
            raise
        raise TransientError(f"{path}: {str(error) or type(error).__name__}") from error


def is_transient(error: BaseException) -> bool:
    """Whether an error may go away by itself."""
    return isinstance(error, OSError) and error.errno not in PERMANENT


def is_file(path: Address) -> bool:
    """Whether `path` is a file; unlike fsspec's own answer, not False while the store does not answer.

    Raises:
        TransientError: the store does not answer.
    """
    return _kind(path) == "file"


def is_folder(path: Address) -> bool:
    """Whether `path` is a folder; an error while the store does not answer, as for `is_file`."""
    return _kind(path) == "directory"


def read_bytes(path: Address) -> bytes:
    """The content of a file, in one request.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read, or a store answers with a page of HTML or XML, as proxies do.
    """
    if isinstance(path, Path):
        return path.read_bytes()
    with store_errors(path):
        data = read_remote(path.fs, path.path)
    if data.lstrip().startswith(b"<"):
        raise TransientError(f"{path}: the store answers with a page, not with the file")
    return data


def read_remote(files: Any, path: str) -> bytes:
    """The content of a file of an fsspec file system, in one request; the errors are those of the latter."""
    try:
        return bytes(files.cat_file(path, start=0))  # without a start, s3fs asks for the size before
    except OSError:
        if files.info(path)["size"]:
            raise
        return b""  # of which S3 has no range


def list_folder(folder: Address) -> dict[str, str]:
    """The files of a folder by name, in one listing, each with a stamp that changes with its content.

    The stamp is the size and the entity tag, or the time of the last change. Empty if there is no folder.

    Raises:
        OSError: it cannot be listed.
    """
    try:
        if isinstance(folder, Path):
            with os.scandir(folder) as entries:
                stats = {entry.name: entry.stat() for entry in entries if entry.is_file()}
            return {name: stat_stamp(stat) for name, stat in stats.items()}
        with store_errors(folder):
            files = folder.fs.ls(folder.path, detail=True)
    except FileNotFoundError:
        return {}
    return {file["name"].rpartition("/")[2]: listed_stamp(file) for file in files if file["type"] == "file"}


def listed_stamp(file: Mapping[str, Any]) -> str:
    """The stamp, as in `list_folder`, of a file as a remote file system lists it.

    It ends in a blank where the file system tells nothing but the size.
    """
    changed = next((file[name] for name in ("ETag", "mtime", "LastModified", "created") if name in file), "")
    return f"{file['size']} {changed}"


def stat_stamp(stat: os.stat_result) -> str:
    """The stamp, as in `list_folder`, of a local file."""
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _kind(path: Address) -> str | None:
    if isinstance(path, Path):
        return "file" if path.is_file() else "directory" if path.is_dir() else None
    with store_errors(path):
        try:
            return str(path.fs.info(path.path)["type"])
        except FileNotFoundError:
            return None
