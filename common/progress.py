"""Progress with rate and time left: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from datetime import timedelta
from typing import Final, Protocol

from tqdm import tqdm

PLAIN_INTERVAL: Final = 10.0
"""Seconds between two plain lines, so that logs stay readable."""


class Progress(Protocol):
    """What a loop needs to report its progress."""

    def update(self, count: int, note: str = "") -> None:
        """Count `count` more finished units; `note` is shown beside the rate."""

    def close(self) -> None:
        """Print the final state."""


class _Silent:
    def update(self, count: int, note: str = "") -> None:
        pass

    def close(self) -> None:
        pass


class _Bar:
    def __init__(self, title: str, total: int, unit: str, done: int) -> None:
        self._bar = tqdm(total=total, desc=title, unit=f" {unit}", initial=done, dynamic_ncols=True)

    def update(self, count: int, note: str = "") -> None:
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(count)

    def close(self) -> None:
        self._bar.close()


class _Lines:
    def __init__(self, title: str, total: int, unit: str, done: int) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._done, self._skipped = done, done
        self._start = self._last = time.monotonic()
        self._printed, self._note = -1, ""

    def update(self, count: int, note: str = "") -> None:
        self._done += count
        self._note = note or self._note
        if time.monotonic() - self._last >= PLAIN_INTERVAL:
            self._print()

    def close(self) -> None:
        if self._printed != self._done:
            self._print()

    def _print(self) -> None:
        self._last = time.monotonic()
        self._printed = self._done
        seconds = max(self._last - self._start, 1e-9)
        rate = (self._done - self._skipped) / seconds
        left = (
            f", {timedelta(seconds=round((self._total - self._done) / rate))} left"
            if rate > 0 and self._done < self._total
            else ""
        )
        note = f", {self._note}" if self._note else ""
        print(
            f"{self._title}: {self._done:,} of {self._total:,} {self._unit}, {rate:.1f}/s{left}{note}",
            file=sys.stderr,
            flush=True,
        )


def progress(title: str, total: int, unit: str, done: int = 0, enabled: bool = True) -> Progress:
    """Start a progress display on standard error.

    Args:
        title: the activity, such as ``parse``.
        total: number of units.
        unit: plural name of a unit, such as ``images``.
        done: units that an earlier run finished; they do not count towards the rate.
        enabled: False prints nothing, for all but the first of several processes.
    """
    if not enabled:
        return _Silent()
    kind = _Bar if sys.stderr.isatty() else _Lines
    return kind(title, total, unit, done)
