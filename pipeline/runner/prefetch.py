"""Work ahead of whoever uses its results: reads from slow stores, and the steps of a worker side by side."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Final, TypeVar

Item = TypeVar("Item")

THREADS: Final = 16  # Reads at a time: at 60 ms each, 266 a second
_END: Final = object()


def read_ahead(
    read: Callable[[Item], bytes], items: Iterable[Item], threads: int = THREADS, most: int = 64_000_000
) -> Iterator[tuple[Item, "Future[bytes]"]]:
    """Each item with its finished read, in their order; an error of `read` is the result of its item.

    So many `threads` read at a time, until `most` bytes wait to be used or as many items.
    """
    rest, waiting = iter(items), deque[tuple[Item, Future[bytes]]]()
    pool = ThreadPoolExecutor(threads)

    def held() -> int:
        done = (future for _, future in waiting if future.done() and not future.exception())
        return sum(len(future.result()) for future in done)

    try:
        while True:
            while len(waiting) < threads and held() < most and (more := list(islice(rest, 1))):
                waiting.append((more[0], pool.submit(read, more[0])))
            if not waiting:
                return
            item, future = waiting.popleft()
            wait([future])
            yield item, future
    finally:
        pool.shutdown(cancel_futures=True)


def ahead(items: Iterable[Item], depth: int) -> Generator[Item]:
    """The items in their order, computed in one thread, at most `depth` of them ahead of their use.

    An error of an item is raised in its place, and no item after it is computed.
    """
    steps = iter(items)
    with ThreadPoolExecutor(1) as thread:
        waiting = deque(thread.submit(next, steps, _END) for _ in range(depth))
        while (item := waiting.popleft().result()) is not _END:
            yield item  # type: ignore[misc]
            waiting.append(thread.submit(next, steps, _END))
