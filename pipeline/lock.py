"""One run at a time per output: a lock that names its owner.

A local lock is held by the operating system and ends with the process, however that ends. At an object
store the lock is a file that only one can create, and whose owner renews it; one that is not renewed any
more is of a dead process and may be taken over. Clocks of the machines must agree within a minute.
"""

import fcntl
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from upath import UPath

from common.errors import UserError
from common.layout import Layout
from common.storage import is_file, store_errors

NAME: Final = ".lock"
RENEW_SECONDS: Final = 15.0
EXPIRY_SECONDS: Final = 120.0
"""Age of the last renewal at which an owner is taken for dead; covers the delays of clocks and stores."""

SETTLE_SECONDS: Final = 2.0
"""How long to wait before looking who of several has taken over an expired lock: the last to write, where the
store does not compare tags."""


@contextmanager
def locked(layout: Layout) -> Iterator[None]:
    """Hold the lock of an output; it lies beside the manifests.

    Raises:
        UserError: another run holds it; names that run.
        TransientError: the store does not answer.
    """
    path = layout.manifests / NAME
    with _flock(path) if isinstance(path, Path) else _stored(path):
        yield


def _owner() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "command": " ".join(sys.orig_argv[1:]),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _in_use(path: Path | UPath, text: str) -> UserError:
    try:
        owner = json.loads(text)
        named = f"process {owner['process']} on {owner['host']} since {owner['since']} ({owner['command']})"
    except (ValueError, KeyError, TypeError):
        named = "another process"
    return UserError(f"{path.parent} is in use by {named}; wait for it, or name another --output")


@contextmanager
def _flock(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.seek(0)
            raise _in_use(path, stream.read()) from error
        except OSError as error:
            print(f"{path}: this disk has no locks ({error}); start no second run here", file=sys.stderr)
        stream.truncate(0)
        stream.write(json.dumps(_owner()) + "\n")
        stream.flush()
        yield


@contextmanager
def _stored(path: UPath) -> Iterator[None]:
    owner = _owner()
    if not _create(path, owner):
        if not _replace(path, owner, _expired):
            raise _in_use(path, _read(path))
        time.sleep(SETTLE_SECONDS)
        if not _is_owner(text := _read(path), owner):
            raise _in_use(path, text)
    ended = threading.Event()
    renewer = threading.Thread(target=_renew, args=(path, owner, ended), daemon=True)
    renewer.start()
    try:
        yield
    finally:
        ended.set()
        renewer.join()
        with suppress(Exception):  # it expires by itself
            if _is_owner(_read(path), owner):
                path.unlink()


def _create(path: UPath, owner: dict[str, Any]) -> bool:
    """Create the lock unless it exists; whether it was created."""
    with store_errors(path):
        try:
            path.fs.pipe_file(path.path, _beat(owner), mode="create")
        except Exception:  # stores differ in how they refuse
            if is_file(path):
                return False
            raise
    return True


def _replace(path: UPath, owner: dict[str, Any], replaceable: Callable[[str], bool]) -> bool:
    """Write the lock if what it holds is `replaceable`; whether it was written.

    S3 writes it only if it still has the tag that it had before it was read (If-Match). Other stores, and
    those that know no such condition, write it whatever another process has written meanwhile.
    """
    with store_errors(path):
        tag = path.fs.info(path.path).get("ETag")
        if not replaceable(_read(path)):
            return False
        if "s3" in path.fs.protocol and tag:
            try:
                path.fs.pipe_file(path.path, _beat(owner), IfMatch=tag)
                return True
            except Exception:  # stores differ in how they refuse
                if path.fs.info(path.path).get("ETag") != tag:
                    return False
        path.fs.pipe_file(path.path, _beat(owner))
    return True


def _read(path: UPath) -> str:
    """The lock in one request; an opened file would fail if it is renewed meanwhile."""
    with store_errors(path):
        return bytes(path.fs.cat_file(path.path)).decode()


def _renew(path: UPath, owner: dict[str, Any], ended: threading.Event) -> None:
    while not ended.wait(RENEW_SECONDS):
        with suppress(Exception):  # the next renewal may reach the store
            if not _replace(path, owner, partial(_is_owner, owner=owner)):
                print(f"{path}: another run has taken over this output; stop one of them", file=sys.stderr)
                return


def _beat(owner: dict[str, Any]) -> bytes:
    return json.dumps({**owner, "renewed": time.time()}).encode()


def _expired(text: str) -> bool:
    try:
        return time.time() - float(json.loads(text)["renewed"]) >= EXPIRY_SECONDS
    except (ValueError, KeyError, TypeError):
        return True


def _is_owner(text: str, owner: dict[str, Any]) -> bool:
    return json.loads(text).items() >= owner.items()
