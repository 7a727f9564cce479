"""Atomic writes: files appear complete or not at all, locally and at remote addresses; the user's cache."""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from upath import UPath

from common.errors import UserError
from common.storage import Address, store_errors

FULL: Final = (errno.ENOSPC, errno.EDQUOT)  # Error numbers of a full disk and of an exhausted quota
_CHECK: Final = ContextVar[Callable[[], None] | None]("check", default=None)


@contextmanager
def guarded(check: Callable[[], None] | None) -> Iterator[None]:
    """Let `check`, which may raise, be called before each write to a store in this context."""
    token = _CHECK.set(check)
    try:
        yield
    finally:
        _CHECK.reset(token)


def guard() -> Callable[[], None] | None:
    """The check of this context, to be taken along to another process."""
    return _CHECK.get()


def check_guard() -> None:
    """Call the check of this context, if there is one."""
    if check := _CHECK.get():
        check()


def remove(path: Address) -> None:
    """Delete a file, if there is one; guarded as writes are."""
    check_guard()
    with store_errors(path):
        path.unlink(missing_ok=True)


@contextmanager
def replacing(path: Address) -> Iterator[Path]:
    """Yield a local temporary file to write to, which becomes `path` if no error is raised.

    On a local disk it is synced and renamed; elsewhere it is uploaded at the end, atomically.

    Raises:
        UserError: the disk is full.
        OSError: the file could not be written (no permission).
    """
    with disk_errors(path), _beside(path) if isinstance(path, Path) else _uploading(path) as temporary:
        yield temporary


@contextmanager
def disk_errors(path: Address) -> Iterator[None]:
    """Turn the error of a full disk in this context, whose message has no path, into a `UserError`."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise UserError(
                f"{path}: the disk is full; make space, then run the same command again, "
                "it continues where this one ended"
            ) from error
        raise


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as claim:
            # The lock ends with the process, so it tells the files of living writers from those of dead ones
            # better than a process id, which the next container reuses. Some network disks have no locks.
            with suppress(OSError):
                fcntl.flock(claim, fcntl.LOCK_EX)
            mode = os.fstat(claim.fileno()).st_mode
            yield temporary
            temporary.chmod(mode)  # safetensors puts a file in its place that only its owner may read
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _uploading(path: UPath) -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        temporary = Path(folder, path.name)
        yield temporary
        check_guard()
        with store_errors(path):
            path.fs.put_file(str(temporary), path.path)


def remove_partials(folder: Address) -> None:
    """Delete the temporary files that killed processes left in `folder`, but not those of running ones."""
    if not isinstance(folder, Path):
        return
    for temporary in folder.glob(".*.partial"):
        with suppress(OSError), temporary.open("r+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            temporary.unlink()


def write_bytes(path: Address, data: bytes | memoryview) -> None:
    """Write `data` to `path`, completely or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Address, text: str) -> None:
    """Write UTF-8 text to `path`, completely or not at all."""
    write_bytes(path, text.encode())


def user_cache(configured: str | None = None) -> Path:
    """The configured folder, or this project's in the user's cache; a `UserError` if the user has no home."""
    if configured:
        return Path(configured)
    folder = os.environ.get("XDG_CACHE_HOME")  # empty counts as unset, as the XDG specification says
    try:
        return (Path(folder) if folder else Path.home() / ".cache") / "sspl-faces"
    except RuntimeError as error:
        raise UserError(
            "there is no folder for weights: this user has no home; name one as weights.cache in params.yaml "
            "or set XDG_CACHE_HOME"
        ) from error


def readable_or_own(file: Path) -> Path:
    """A file of a folder that other users may share, or the one in the user's own cache that takes its place.

    It does where the file cannot be read, or is missing from a folder that cannot be written.
    """
    if os.access(file, os.R_OK, effective_ids=True):
        return file
    folder = next(parent for parent in file.absolute().parents if parent.exists())
    usable = not file.exists() and os.access(folder, os.W_OK | os.X_OK, effective_ids=True)
    return file if usable else user_cache() / file.name
