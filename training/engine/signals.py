"""Stopping in good order: a signal is noted, and the loop ends after its present step."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether, and by which signal, the run was asked to stop.

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
