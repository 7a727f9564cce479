"""Graceful stopping: a signal is recorded, and the loop ends after its current step."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether a signal requested that the run stop.

    Attributes:
        number: the signal's number; 0 if there was none.
    """

    def __init__(self) -> None:
        self.number = 0


@contextmanager
def noted_signals(insist: bool) -> Iterator[StopRequest]:
    """Note Ctrl-C and SIGTERM instead of dying of them.

    Args:
        insist: whether a second Ctrl-C interrupts at once. Not under ``torchrun``, which sends
            every process the signal once more that the terminal has sent already.
    """
    request = StopRequest()

    def note(number: int, frame: FrameType | None) -> None:
        if insist and request.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.number = number

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
