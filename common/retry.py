"""Backoff with a store that does not answer: again after 1, 2, 4, ... seconds, for some minutes."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from common.storage import is_transient

Result = TypeVar("Result")

LONGEST_PAUSE: Final = 60.0
"""Seconds between two attempts at most."""


@dataclass
class Backoff:
    """How long one failing operation is tried again.

    Attributes:
        minutes: from the first failure to the last attempt.
        attempts: that failed.
    """

    minutes: float
    attempts: int = 0
    _since: float = field(default_factory=time.monotonic)

    def pause(self) -> float | None:
        """Seconds to wait after one more failure; None if the time is over."""
        if self.attempts == 0:
            self._since = time.monotonic()
        self.attempts += 1
        left = self._since + 60 * self.minutes - time.monotonic()
        return min(2.0 ** (self.attempts - 1), LONGEST_PAUSE, left) if left > 0 else None


def retried(
    action: Callable[[], Result],
    minutes: float,
    stage: str,
    transient: Callable[[BaseException], bool] = is_transient,
) -> Result:
    """What `action` returns, which is tried again for so many minutes while its error is transient.

    Args:
        action: changes nothing if it fails.
        minutes: from the first failure to the last attempt.
        stage: named in the notices.
        transient: whether an `OSError` of `action` may go away by itself.
    """
    backoff = Backoff(minutes)
    while True:
        try:
            return action()
        except OSError as error:
            pause = backoff.pause() if transient(error) else None
            if pause is None:
                raise
            print(f"{stage}: {error}; trying again in {pause:.0f} s", file=sys.stderr)
            time.sleep(pause)
