"""Progress with rate and time left: a bar on a terminal, plain lines elsewhere."""

import math
import sys
from collections.abc import Callable
from typing import Any

from tqdm import tqdm


class Progress(tqdm):  # type: ignore[type-arg]
    """A display on standard error; see `progress`."""

    def update(self, count: float | None = 1, note: str = "") -> None:
        """Count `count` more finished units; `note` is shown beside the rate."""
        if note:
            self.set_postfix_str(note, refresh=False)
        super().update(count)

    def refresh(self, nolock: bool = False, lock_args: tuple[Any, ...] | None = None) -> None:
        """Print the state; a lock that tqdm kept after a failed write would block all other threads."""
        with self.get_lock():
            super().refresh(nolock=True)

    def close(self) -> None:
        """Print the final state."""
        if not self.disable and not self.fp.isatty():
            if self.n != self.last_print_n:
                self.refresh()
            self.delay = math.inf  # tqdm would print the state once more, and an empty line
        super().close()

    @staticmethod
    def status_printer(file: Any) -> Callable[[str], None]:
        """A bar is redrawn in place; elsewhere every state is a line of its own."""
        if file.isatty():
            return tqdm.status_printer(file)
        # One write, so that what another thread prints begins a line.
        return lambda text: print(f"{text}\n", end="", file=file, flush=True)


def progress(title: str, total: int, unit: str, done: int = 0, enabled: bool = True) -> Progress:
    """Start a progress display of an activity, such as ``parse``, on standard error.

    `unit` is the plural name of a unit, such as ``images``, and `done` counts those that an earlier run
    finished, not towards the rate. Of several processes only the first has it `enabled`.
    """
    plain = {
        "mininterval": 10.0,
        "miniters": 1,
        "delay": 1e-9,
        "bar_format": "{desc}: {n:,} of {total:,}{unit}, {rate_noinv_fmt}, {remaining} left{postfix}",
    }
    style: dict[str, Any] = {"dynamic_ncols": True} if sys.stderr.isatty() else plain
    return Progress(
        total=total, desc=title, unit=f" {unit}", initial=done, disable=not enabled, file=sys.stderr, **style
    )
