"""Local paths and fsspec addresses such as ``s3://bucket/celeba``, behind one type.

A local path stays an ordinary `pathlib.Path`; anything else is a `UPath` of
universal_pathlib, which offers the same methods over fsspec. Credentials and
endpoints come from the environment, as fsspec's implementations read them.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tarfile import TarError
from typing import Final, TypeAlias

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


def is_local(path: Address) -> bool:
    """Whether a path lies in this machine's file system."""
    return isinstance(path, Path)


PERMANENT: Final = {
    errno.EACCES,
    errno.EEXIST,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}
"""Errors of a local file system that are about one path, and that do not go away by themselves."""


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


def _kind(path: Address) -> str | None:
    if isinstance(path, Path):
        return "file" if path.is_file() else "directory" if path.is_dir() else None
    with store_errors(path):
        try:
            return str(path.fs.info(path.path)["type"])
        except FileNotFoundError:
            return None
