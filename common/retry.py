"""Patience with a store that does not answer: again after 1, 2, 4, ... seconds, for some minutes."""

import sys
import time
from collections.abc import Callable
from typing import Final, TypeVar

from common.storage import TransientError

Result = TypeVar("Result")

LONGEST_PAUSE: Final = 60.0
"""Seconds between two attempts at most."""


def retried(action: Callable[[], Result], minutes: float) -> Result:
    """What `action` returns, which is tried again for so many minutes while the store does not answer.

    Raises:
        TransientError: of the last attempt.
    """
    pause, end = 1.0, time.monotonic() + 60 * minutes
    while True:
        try:
            return action()
        except TransientError as error:
            left = end - time.monotonic()
            if left <= 0:
                raise
            print(f"{error}; trying again in {min(pause, left):.0f} s", file=sys.stderr)
            time.sleep(min(pause, left))
            pause = min(2 * pause, LONGEST_PAUSE)
