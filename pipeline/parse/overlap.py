"""Steps of a worker side by side: decode ahead of the network, encode and write behind it."""

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

Item = TypeVar("Item")

_END: Final = object()


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
