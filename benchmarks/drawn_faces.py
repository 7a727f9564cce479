"""Drawings of faces that need NumPy and OpenCV alone."""

import cv2
import numpy as np
from numpy.typing import NDArray


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
