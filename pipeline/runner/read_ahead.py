"""Reading ahead of whoever uses the bytes, because a store takes its time for each request, not for many."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Final, TypeVar

Item = TypeVar("Item")

THREADS: Final = 16
"""Reads at a time: at 60 ms each, 266 a second."""

MOST_BYTES: Final = 64_000_000
"""Bytes that wait to be used before no more is read, save for what is being read already."""


def read_ahead(
    read: Callable[[Item], bytes], items: Iterable[Item], threads: int = THREADS, most: int = MOST_BYTES
) -> Iterator[tuple[Item, "Future[bytes]"]]:
    """Each item with its finished read, in their order; an error of `read` is the result of its item.

    Args:
        read: called for several items at a time, each in a thread.
        items: what to read.
        threads: items that are read or wait at a time.
        most: bytes that wait before no more is read.
    """
    rest, waiting = iter(items), deque[tuple[Item, Future[bytes]]]()
    pool = ThreadPoolExecutor(threads)
    try:
        while True:
            while len(waiting) < threads and _held(waiting) < most:
                try:
                    item = next(rest)
                except StopIteration:
                    break
                waiting.append((item, pool.submit(read, item)))
            if not waiting:
                return
            item, future = waiting.popleft()
            wait([future])
            yield item, future
    finally:
        pool.shutdown(cancel_futures=True)


def _held(waiting: "Iterable[tuple[object, Future[bytes]]]") -> int:
    done = (future for _, future in waiting if future.done() and not future.exception())
    return sum(len(future.result()) for future in done)
