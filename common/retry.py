"""Backoff with a store that does not answer: again after 1, 2, 4, ... seconds, for some minutes."""

import sys
import time
from collections.abc import Callable
from typing import Final, TypeVar

from common.storage import is_transient

Result = TypeVar("Result")

LONGEST_PAUSE: Final = 60.0  # Seconds between two attempts at most


class Backoff:
    """How long one failing operation is tried again: so many minutes from its first failure."""

    def __init__(self, minutes: float) -> None:
        self._minutes, self._attempts, self._since = minutes, 0, 0.0

    def wait(self, problem: str, final: BaseException) -> None:
        """Print a problem, and sleep until the next attempt; raises `final` if the time is over."""
        if self._attempts == 0:
            self._since = time.monotonic()
        self._attempts += 1
        left = self._since + 60 * self._minutes - time.monotonic()
        if left <= 0:
            raise final
        pause = min(2.0 ** (self._attempts - 1), LONGEST_PAUSE, left)
        print(f"{problem}; trying again in {pause:.0f} s", file=sys.stderr)
        time.sleep(pause)


def retried(
    action: Callable[[], Result],
    minutes: float,
    stage: str,
    transient: Callable[[BaseException], bool] = is_transient,
) -> Result:
    """What `action` returns, which is tried again for so many minutes while its error is transient.

    `action` changes nothing if it fails; the notices name the `stage`; and `transient` tells whether an
    `OSError` may go away by itself.
    """
    backoff = Backoff(minutes)
    while True:
        try:
            return action()
        except OSError as error:
            if not transient(error):
                raise
            backoff.wait(f"{stage}: {error}", error)
