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
def deferred_signals(second_interrupts: bool) -> Iterator[StopRequest]:
    """Record Ctrl-C and SIGTERM instead of ending at once.

    Args:
        second_interrupts: whether a second Ctrl-C interrupts at once; not under ``torchrun``, which sends
            every process again the signal that the terminal has already sent.
    """
    request = StopRequest()

    def record(number: int, frame: FrameType | None) -> None:
        if second_interrupts and request.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.number = number

    before = {number: signal.signal(number, record) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
