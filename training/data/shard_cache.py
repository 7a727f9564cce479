"""Open shards: local ones in place, remote ones through a bounded cache on the local disk.

A remote shard is downloaded whole, ahead of its use, and once for all threads and processes of a machine.
Locks on the files tell them what the others do: a process that downloads a shard keeps the others waiting for
it, and one that reads it keeps it from being deleted. When the folder is full, the least recently used shards
are deleted, whoever downloaded them.
"""

import fcntl
import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Final, Self

from upath import UPath

from common.errors import UserError
from common.files import FULL, remove_partials, replacing
from common.pipeline_config import Stream
from common.retry import retried
from common.storage import Address, TransientError, is_local, store_errors

OPEN_AT_MOST: Final = 256
"""Limit of shards that are open at a time; a process may usually open 1,024 files."""
DOWNLOADS: Final = 4
"""Limit of remote shards that are downloaded at a time."""


@dataclass
class _Shard:
    """A shard that is open or being opened.

    Attributes:
        descriptor: of its file.
        copy: the file in the cache; None of a local shard.
        readers: how many threads read it.
        used: when it was last opened or requested, in seconds since 1970.
    """

    descriptor: Future[int] = field(default_factory=Future)
    copy: Path | None = None
    readers: int = 0
    used: float = field(default_factory=time.time)

    def failed(self) -> bool:
        return self.descriptor.done() and self.descriptor.exception() is not None

    def idle(self) -> bool:
        return self.readers == 0 and self.descriptor.done()

    def close(self) -> None:
        if self.descriptor.done() and not self.failed():
            os.close(self.descriptor.result())


class ShardCache:
    """File descriptors of the shards below `root`, for `os.pread` from any thread.

    Args:
        root: folder or fsspec address.
        stream: the folder for remote shards and how much of it may be filled, and how long a download is
            tried again. Shards in use are kept even beyond the limit.
    """

    def __init__(self, root: Address, stream: Stream) -> None:
        self._root, self._stream = root, stream
        self._folder = stream.folder
        self._shards: OrderedDict[str, _Shard] = OrderedDict()
        self._lock = Lock()
        self._full = False
        self._pool = ThreadPoolExecutor(DOWNLOADS, thread_name_prefix="shards")
        if not is_local(root):
            self._folder.mkdir(parents=True, exist_ok=True)
            remove_partials(self._folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        for shard in self._shards.values():
            shard.close()

    def prefetch(self, names: Iterable[str]) -> None:
        """Start to download shards that will be needed soon; local shards need nothing."""
        if not is_local(self._root):
            for name in names:
                with self._lock:
                    self._entry(name)

    @contextmanager
    def open(self, name: str) -> Iterator[int]:
        """The file descriptor of a shard, which stays open and in the cache within this context.

        Raises:
            UserError: the shard cannot be read, or its store did not answer for ``retry_minutes``. What
                failed is not remembered: the shard is opened anew when it is next requested.
        """
        with self._lock:
            shard = self._entry(name)
            shard.readers += 1
        try:
            yield shard.descriptor.result()
        except OSError as error:
            reason = error.strerror or error
            raise UserError(
                f"{self._root / name}: cannot be read ({reason}); is the data set complete?"
            ) from error
        finally:
            with self._lock:
                shard.readers -= 1
                if len(self._shards) > OPEN_AT_MOST:
                    self._close_one()
                if self._full:
                    self._shrink()

    def _entry(self, name: str) -> _Shard:
        """The entry of a shard, which is opened if it was not or could not be; the caller holds the lock."""
        shard = self._shards.get(name)
        if shard is None or shard.failed():
            shard = self._shards[name] = _Shard()
            address = self._root / name
            if isinstance(address, Path):
                self._open(address, shard)
            else:
                self._pool.submit(self._open, address, shard)
        shard.used = time.time()
        self._shards.move_to_end(name)
        return shard

    def _open(self, address: Address, shard: _Shard) -> None:
        try:
            if isinstance(address, Path):
                descriptor = os.open(address, os.O_RDONLY)
            else:
                descriptor = retried(
                    lambda: self._downloaded(address, shard),
                    self._stream.retry_minutes,
                    "stream",
                    # A full disk is an error of this machine, which waiting does not mend.
                    transient=lambda error: isinstance(error, TransientError),
                )
        except Exception as error:  # raised where the descriptor is awaited
            shard.descriptor.set_exception(error)
            return
        shard.descriptor.set_result(descriptor)
        if shard.copy is not None:
            with self._lock:
                self._shrink()

    def _downloaded(self, address: UPath, shard: _Shard) -> int:
        """The descriptor of a remote shard's copy, which no process deletes while it is open."""
        with store_errors(address):
            # The store's own tag of the content: a rewritten shard is downloaded again.
            tag = hashlib.sha256(f"{address} {address.fs.ukey(address.path)}".encode()).hexdigest()[:32]
        copy = shard.copy = self._folder / f"{tag}.tar"
        with self._locked(copy):
            if not copy.is_file():
                with replacing(copy) as temporary:
                    _download(address, temporary)
            descriptor = os.open(copy, os.O_RDONLY)
            with suppress(OSError):  # some network disks have no locks
                fcntl.flock(descriptor, fcntl.LOCK_SH)
        os.utime(copy)
        return descriptor

    @contextmanager
    def _locked(self, copy: Path, wait: bool = True) -> Iterator[None]:
        """Keep other threads and processes from downloading or deleting `copy`.

        Raises:
            BlockingIOError: another does, and this one was not to wait.
        """
        with (self._folder / f".lock-{copy.name[:2]}").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                raise
            except OSError:  # some network disks have no locks
                pass
            yield

    def _close_one(self) -> None:
        """Close the least recently used idle shard; the caller holds the lock."""
        for name, shard in self._shards.items():
            if shard.idle():
                shard.close()
                del self._shards[name]
                return

    def _shrink(self) -> None:
        """Delete the folder's least recently used shards until the rest fits; the caller holds the lock."""
        files = {}
        for file in self._folder.glob("[!.]*.tar"):
            with suppress(FileNotFoundError):  # another process was faster
                files[file] = file.stat()
        excess = sum(stat.st_size for stat in files.values()) - self._stream.cache_gigabytes * 1e9
        open_here = {shard.copy: (name, shard) for name, shard in self._shards.items()}

        def used(file: Path) -> float:
            return open_here[file][1].used if file in open_here else files[file].st_mtime

        for file in sorted(files, key=used) if excess > 0 else ():
            if file in open_here:
                name, shard = open_here[file]
                if not shard.idle():
                    continue
                shard.close()
                del self._shards[name]
            if self._delete(file):
                excess -= files[file].st_size
            if excess <= 0:
                break
        self._full = excess > 0

    def _delete(self, copy: Path) -> bool:
        """Delete a copy unless a process reads or downloads it; returns whether it is gone."""
        with suppress(OSError), self._locked(copy, wait=False), copy.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            copy.unlink()
        return not copy.exists()


def _download(address: UPath, target: Path) -> None:
    try:
        with store_errors(address):
            address.fs.get_file(address.path, str(target))
    except TransientError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in FULL:
            raise error.__cause__ from None
        raise
