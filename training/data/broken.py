"""Broken samples: training replaces them by others and says so, up to a limit."""

import sys
from threading import Lock

from common.errors import UserError


class BrokenSamples:
    """The broken samples that one process of a run has come across.

    Args:
        most: how many are replaced.

    Attributes:
        keys: their keys.
    """

    def __init__(self, most: int) -> None:
        self._most, self._lock = most, Lock()
        self.keys: set[str] = set()

    def add(self, key: str, message: str) -> None:
        """Print the message about a broken sample, once.

        Raises:
            UserError: there are more than `most`.
        """
        with self._lock:
            if key in self.keys:
                return
            self.keys.add(key)
        print(f"{message}; another sample takes its place", file=sys.stderr, flush=True)
        if len(self.keys) > self._most:
            raise UserError(
                f"{len(self.keys)} samples are broken, more than stream.max_broken={self._most}; "
                f"`python -m pipeline.verify` lists them. The last one: {message}"
            )
