"""Open shards: local ones in place, remote ones through a bounded cache on the local disk.

A remote shard is downloaded whole, ahead of its use, and once for all threads and processes of a machine.
A process that downloads a shard locks it, so that the others wait for it, and one that has it open keeps it
from being deleted. When the folder is full, the least recently used shards, of any process, are deleted.
"""

import fcntl
import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Final

from upath import UPath

from common.errors import UserError
from common.files import FULL, remove_partials, replacing
from common.pipeline_config import Stream
from common.retry import retried
from common.shards import shard_path
from common.storage import Address, TransientError, is_local, store_errors

OPEN_AT_MOST: Final = 256  # Limit of shards that are open at a time; a process may usually open 1,024 files


class _Shard:
    """An open shard, closed when nobody refers to it any more; `copy` is its file in the cache, if any."""

    def __init__(self, path: Path, copied: bool) -> None:
        self.descriptor, self.copy = os.open(path, os.O_RDONLY), path if copied else None

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


class ShardCache(AbstractContextManager["ShardCache"]):
    """File descriptors of the shards below `root`, folder or fsspec address, for `os.pread` from any thread.

    The stream says which folder remote shards fill and how much of it, and how long a download is tried
    again. Shards in use are kept even beyond the limit.
    """

    def __init__(self, root: Address, stream: Stream) -> None:
        self._root, self._stream, self._folder = root, stream, stream.folder
        self._shards: OrderedDict[str, Future[_Shard]] = OrderedDict()
        self._lock = Lock()
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="shards")
        if not is_local(root):
            self._folder.mkdir(parents=True, exist_ok=True)
            remove_partials(self._folder)

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._shards.clear()

    def prefetch(self, names: Iterable[str]) -> None:
        """Start to download shards that will be needed soon; local shards need nothing."""
        if not is_local(self._root):
            for name in names:
                self._requested(name)

    @contextmanager
    def open(self, name: str) -> Iterator[int]:
        """The file descriptor of a shard, which stays open and in the cache within this context.

        Raises:
            UserError: the shard cannot be read, or its store did not answer for ``retry_minutes``. What
                failed is not remembered: the shard is opened anew when it is next requested.
        """
        try:
            shard = self._requested(name).result()
            if shard.copy is not None:
                os.utime(shard.descriptor, ns=(time.time_ns(), time.time_ns()))
            yield shard.descriptor
        except OSError as error:
            reason = error.strerror or error
            raise UserError(
                f"{self._root / name}: cannot be read ({reason}); is the data set complete?"
            ) from error

    def _requested(self, name: str) -> Future[_Shard]:
        """A shard that is open or being opened."""
        with self._lock:
            future = self._shards.get(name)
            if future is None or (future.done() and future.exception() is not None):
                future = self._pool.submit(self._opened, shard_path(self._root, name))
                self._shards[name] = future
            self._shards.move_to_end(name)
            if len(self._shards) > OPEN_AT_MOST:
                del self._shards[next(key for key, each in self._shards.items() if each.done())]
        return future

    def _opened(self, address: Address) -> _Shard:
        if isinstance(address, Path):
            return _Shard(address, copied=False)
        shard = retried(
            lambda: self._downloaded(address),
            self._stream.retry_minutes,
            "stream",
            transient=lambda error: isinstance(error, TransientError),
        )
        self._shrink()
        return shard

    def _downloaded(self, address: UPath) -> _Shard:
        """A remote shard's copy, which no process deletes while it is open."""
        with store_errors(address):
            # The store's own tag of the content: a rewritten shard is downloaded again.
            tag = hashlib.sha256(f"{address} {address.fs.ukey(address.path)}".encode()).hexdigest()[:32]
        copy = self._folder / f"{tag}.tar"
        with (self._folder / f".lock-{tag[:2]}").open("a") as lock:
            with suppress(OSError):  # some network disks have no locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            if not copy.is_file():
                with replacing(copy) as temporary:
                    try:
                        with store_errors(address):
                            address.fs.get_file(address.path, str(temporary))
                    except TransientError as error:
                        if isinstance(error.__cause__, OSError) and error.__cause__.errno in FULL:
                            raise error.__cause__ from None  # which waiting does not mend
                        raise
            shard = _Shard(copy, copied=True)
            with suppress(OSError):
                fcntl.flock(shard.descriptor, fcntl.LOCK_SH)
        os.utime(copy, ns=(time.time_ns(), time.time_ns()))
        return shard

    def _shrink(self) -> None:
        """Delete the folder's least recently used shards until the rest fits, but none that is in use."""
        files = {}
        for file in self._folder.glob("[!.]*.tar"):
            with suppress(FileNotFoundError):  # another process was faster
                files[file] = file.stat()
        excess = sum(stat.st_size for stat in files.values()) - self._stream.cache_gigabytes * 1e9
        for file in sorted(files, key=lambda file: files[file].st_mtime_ns):
            if excess <= 0:
                return
            with self._lock:  # what is open here and not in use is closed
                for name, future in list(self._shards.items()):
                    if future.done() and not future.exception() and future.result().copy == file:
                        del self._shards[name]
            download = self._folder / f".lock-{file.name[:2]}"
            with suppress(OSError), download.open("a") as lock, file.open("rb") as stream:
                for each in (lock, stream):  # unless a process downloads or reads it
                    fcntl.flock(each, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.unlink()
                excess -= files[file].st_size
