"""What the rows of ``benchmarks.gpu`` share: the device and the clock; PyTorch alone is needed."""

import time
from collections.abc import Callable
from typing import Final

import torch

GPU: Final = torch.cuda.is_available()
DEVICE: Final = torch.device("cuda" if GPU else "cpu")
ROW_SECONDS: Final = 2.0 if GPU else 1.0

Row = tuple[str, str, str]
"""What is measured, its rate, and notes."""


def rate(step: Callable[[], object], items: int) -> float:
    """Items per second of `step`, after two calls that do not count."""
    for _ in range(2):
        step()
    wait()
    began, count = time.monotonic(), 0
    while count < 3 or time.monotonic() - began < ROW_SECONDS:
        step()
        count += 1
        wait()
    return items * count / (time.monotonic() - began)


def wait() -> None:
    """Let the GPU finish."""
    if GPU:
        torch.cuda.synchronize()
