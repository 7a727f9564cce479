"""Open shards: local ones as they are, remote ones through a bounded cache on the local disk.

A remote shard is downloaded once, whole, ahead of its use, and is shared by all
threads and by all processes of a machine. The least recently used ones are
closed, and deleted from the cache, when there are too many.
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
"""Local shards that are open at a time; a process may usually have 1,024 files."""
DOWNLOADS: Final = 4
"""Remote shards that are downloaded at a time."""


@dataclass
class _Shard:
    """A shard that is open or being opened, and by how many readers it is in use."""

    descriptor: Future[int]
    size: int = 0
    readers: int = 0
    copy: Path | None = field(default=None)


class ShardFiles:
    """Descriptors of the shards below `root`, for `os.pread` from any thread.

    Args:
        root: folder or fsspec address.
        cache: local folder for remote shards; None takes one in the system's temporary folder.
        capacity: bytes of remote shards that are kept in the cache. The shards in use
            at one moment are kept even if they are more.
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
        """Start downloading shards that will be needed soon; does nothing for local ones."""
        if not is_local(self._root):
            for name in names:
                with self._lock:
                    self._entry(name)

    @contextmanager
    def opened(self, name: str) -> Iterator[int]:
        """The descriptor of a shard, which stays open and in the cache within this context.

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
            raise UserError(f"{self._root / name}: cannot be read ({reason}); is the set whole?") from error
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
        except Exception as error:  # whoever waits for the descriptor raises it
            shard.descriptor.set_exception(error)

    def _local(self, name: str, shard: _Shard) -> Path:
        place = self._root / name
        if isinstance(place, Path):
            return place
        # The store's own tag of the content is in the name, so a shard that was rewritten is fetched anew.
        tag = hashlib.sha256(f"{place} {place.fs.ukey(place.path)}".encode()).hexdigest()[:32]
        shard.copy = self._cache / f"{tag}.tar"
        if not shard.copy.is_file():
            with replacing(shard.copy) as temporary:
                place.fs.get_file(place.path, str(temporary))
        shard.size = shard.copy.stat().st_size
        return shard.copy

    def _evict(self) -> None:
        """Close what was not used for longest until the rest fits; the caller holds the lock."""
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
