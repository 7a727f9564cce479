"""What the rows of ``benchmarks.gpu`` share: the device, the clock, and drawn faces."""

import time
from collections.abc import Callable
from typing import Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

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


def draw_faces(count: int, side: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Drawings of faces, uint8 (N, S, S, 3), and their masks, uint8 (N, S, S), the same in each call."""
    rng = np.random.default_rng(0)
    faces = rng.integers(90, 120, (count, side, side, 3)).astype(np.uint8)
    masks = np.zeros((count, side, side), np.uint8)
    shapes = ((17, 0.5, 0.42, 0.36, 0.40), (1, 0.5, 0.52, 0.28, 0.36), (4, 0.38, 0.45, 0.06, 0.03))
    shapes += ((5, 0.62, 0.45, 0.06, 0.03), (10, 0.5, 0.57, 0.05, 0.09), (11, 0.5, 0.73, 0.12, 0.04))
    for face, mask in zip(faces, masks, strict=True):
        for number, x, y, width, height in shapes:
            centre = tuple(round(side * (each + rng.normal(0, 0.01))) for each in (x, y))
            axes = (round(side * width), round(side * height))
            cv2.ellipse(face, centre, axes, 0, 0, 360, rng.integers(30, 220, 3).tolist(), -1)
            cv2.ellipse(mask, centre, axes, 0, 0, 360, number, -1)
    return faces, masks
