"""Open shards: local ones in place, remote ones through a bounded cache on the local disk.

A remote shard is downloaded whole and once, ahead of its use, and shared by all threads and
processes of a machine. When the cache is full, the least recently used shards are closed and deleted.
"""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import gettempdir
from threading import Lock
from types import TracebackType
from typing import Final, Self

from common.errors import UserError
from common.files import replacing
from common.storage import Address, is_local

OPEN_AT_MOST: Final = 256
"""Limit of local shards that are open at a time; a process may usually open 1,024 files."""
DOWNLOADS: Final = 4
"""Limit of remote shards that are downloaded at a time."""


@dataclass
class _Shard:
    """A shard that is open or being opened, with the number of its readers."""

    descriptor: Future[int]
    size: int = 0
    readers: int = 0
    copy: Path | None = field(default=None)


class ShardCache:
    """File descriptors of the shards below `root`, for `os.pread` from any thread.

    Args:
        root: folder or fsspec address.
        cache: local folder for remote shards; None takes one in the system's temporary folder.
        capacity: bytes of remote shards that the cache holds. Shards in use are kept even beyond it.
    """

    def __init__(self, root: Address, cache: str | None, capacity: int) -> None:
        self._root, self._capacity = root, capacity
        self._cache = Path(cache) if cache else Path(gettempdir()) / f"shards-{os.getuid()}"
        self._shards: OrderedDict[str, _Shard] = OrderedDict()
        self._lock = Lock()
        self._pool = ThreadPoolExecutor(DOWNLOADS, thread_name_prefix="shards")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        for shard in self._shards.values():
            self._close(shard)

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
            UserError: the shard cannot be read.
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
                self._evict()

    def _entry(self, name: str) -> _Shard:
        if name in self._shards:
            self._shards.move_to_end(name)
            return self._shards[name]
        shard = _Shard(Future())
        self._shards[name] = shard
        if is_local(self._root):
            self._open(name, shard)
        else:
            self._pool.submit(self._open, name, shard)
        return shard

    def _open(self, name: str, shard: _Shard) -> None:
        try:
            path = self._local(name, shard)
            shard.descriptor.set_result(os.open(path, os.O_RDONLY))
        except Exception as error:  # raised where the descriptor is awaited
            shard.descriptor.set_exception(error)

    def _local(self, name: str, shard: _Shard) -> Path:
        address = self._root / name
        if isinstance(address, Path):
            return address
        # The name includes the store's own tag of the content, so a rewritten shard is downloaded again.
        tag = hashlib.sha256(f"{address} {address.fs.ukey(address.path)}".encode()).hexdigest()[:32]
        shard.copy = self._cache / f"{tag}.tar"
        if not shard.copy.is_file():
            with replacing(shard.copy) as temporary:
                address.fs.get_file(address.path, str(temporary))
        shard.size = shard.copy.stat().st_size
        return shard.copy

    def _evict(self) -> None:
        """Close the least recently used shards until the rest fits; the caller holds the lock."""
        for name, shard in list(self._shards.items()):
            total = sum(other.size for other in self._shards.values())
            if len(self._shards) <= OPEN_AT_MOST and total <= self._capacity:
                return
            if shard.readers == 0 and shard.descriptor.done():
                self._close(shard)
                if shard.copy is not None:
                    shard.copy.unlink(missing_ok=True)
                del self._shards[name]

    def _close(self, shard: _Shard) -> None:
        if shard.descriptor.done() and shard.descriptor.exception() is None:
            os.close(shard.descriptor.result())
