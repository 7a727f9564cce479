"""One run at a time per output: a lock that names its owner.

A local lock is held by the operating system and ends with the process, however that ends. At an object store
the lock is a file that one run creates (If-None-Match) and renews (If-Match); if it is not renewed, its owner
is dead and another run may take it over. By its token its owner knows it again when the answer to a write was
lost. Workers, too, read it before each write (`common.files.guarded`): a run that has lost it stops, and one
that could not renew it waits. The difference of two machines' clocks and the time of one write must be
less than a minute together. Stores that ignore conditions keep the lock of the last writer.
"""

import errno
import fcntl
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from upath import UPath

from common.errors import UserError
from common.files import guarded
from common.layout import Layout
from common.retry import retried
from common.storage import TransientError, read_bytes, store_errors

NAME: Final = ".lock"
RENEW_SECONDS: Final = 15.0
EXPIRY_SECONDS: Final = 120.0  # Age of the last renewal at which an owner is taken for dead
# How long to wait before looking who of several has taken over an expired lock: the last to write, where the
# store does not compare tags.
SETTLE_SECONDS: Final = 2.0


@contextmanager
def locked(layout: Layout, retry_minutes: float = 0.0) -> Iterator[None]:
    """Hold the lock of an output, beside its manifests; `retry_minutes` of patience with its store.

    Raises:
        UserError: another run holds it; names that run.
        TransientError: the store does not answer.
    """
    path = layout.manifests / NAME
    with _flock(path) if isinstance(path, Path) else _stored(path, retry_minutes):
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
def _stored(path: UPath, retry_minutes: float) -> Iterator[None]:
    lock = StoredLock(path, {**_owner(), "token": uuid.uuid4().hex})
    retried(lock.acquire, retry_minutes, "lock")
    ended = threading.Event()
    renewer = threading.Thread(target=lock.renew_until, args=[ended], daemon=True)
    renewer.start()
    try:
        with guarded(lock.check):
            yield
    finally:
        ended.set()
        renewer.join()
        lock.release()


@dataclass(frozen=True)
class StoredLock:
    """The lock of a run at an object store."""

    path: UPath
    owner: dict[str, Any]  # the content of its file save for the time; its token is of this run alone

    def acquire(self) -> None:
        """Create the lock, or take over one that has expired; a `UserError` if another run holds it."""
        current = self._read()
        if current is None:
            return self._write(mode="create")
        text, tag, age = current
        mine = self._is_mine(text)  # an earlier attempt has written it
        if not mine and age < EXPIRY_SECONDS:
            raise _in_use(self.path, text)
        self._write(tag)
        if not mine:
            time.sleep(SETTLE_SECONDS)
            self.check()

    def renew(self) -> None:
        """Write the lock with the time of now; a `UserError` if the run has lost it."""
        self._write(self._own()[1])

    def renew_until(self, ended: threading.Event) -> None:
        """Renew the lock again and again; ends, too, when the run has lost it, and prints so."""
        while not ended.wait(RENEW_SECONDS):
            try:
                self.renew()
            except UserError as lost:
                print(lost, file=sys.stderr)
                return
            except Exception:  # the next renewal may reach the store; until then `check` refuses writes
                continue

    def check(self) -> None:
        """Check that the run may write into the output now.

        Raises:
            UserError: the run has lost the lock.
            TransientError: the lock has not been renewed for long, or the store does not answer.
        """
        age = self._own()[2]
        if age >= 60:  # after which the owner writes nothing until the lock is renewed
            raise TransientError(f"{self.path}: the lock of this run was not renewed for {age:.0f} s")

    def release(self) -> None:
        """Delete the lock of this run, if the store answers; otherwise it expires."""
        with suppress(Exception):
            self.check()
            self.path.unlink()

    def _own(self) -> tuple[str, str | None, float]:
        current = self._read()
        if current is None or not self._is_mine(current[0]):
            raise UserError(
                f"another run has taken over {self.path.parent}, whose lock this run did not renew in time; "
                "this run stops before its next write, and the same command continues after the other one"
            )
        return current

    def _is_mine(self, text: str) -> bool:
        return bool(json.loads(text).get("token") == self.owner["token"])

    def _read(self) -> tuple[str, str | None, float] | None:
        """The content of the lock, its entity tag, and the seconds since it was renewed; None without a lock.

        The tag is older than the content, so what is written on its condition replaces nothing unseen.
        """
        try:
            with store_errors(self.path):
                tag = self.path.fs.info(self.path.path).get("ETag")
                text = read_bytes(self.path).decode()
                return text, tag, time.time() - float(json.loads(text)["renewed"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TransientError(f"{self.path}: the store answers with something that is no lock") from error

    def _write(self, tag: str | None = None, **condition: str) -> None:
        """Write the lock if it still has this tag, or on another condition.

        An error may mean that the answer was lost, so the lock is read again to see whose it is.
        """
        if tag and "s3" in self.path.fs.protocol:
            condition = {"IfMatch": tag}
        renewed = time.time()
        beat = json.dumps({**self.owner, "renewed": renewed}).encode()
        try:
            with store_errors(self.path):
                try:
                    self.path.fs.pipe_file(self.path.path, beat, **condition)
                except OSError as error:
                    if error.errno != errno.ENOSYS:
                        raise
                    self.path.fs.pipe_file(self.path.path, beat)  # the store knows no conditions
        except Exception:  # stores differ in how they refuse
            current = self._read()
            if current is None or current[0] != beat.decode():
                if current and not self._is_mine(current[0]) and current[2] < EXPIRY_SECONDS:
                    raise _in_use(self.path, current[0]) from None
                raise
