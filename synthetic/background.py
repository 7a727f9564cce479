"""What is behind the person: a wall, lights out of focus, a press banner or a street."""

import cv2
import numpy as np

from synthetic.geometry import Bytes


def background(rng: np.random.Generator, height: int, width: int) -> Bytes:
    """Draw a background, uint8 RGB (height, width, 3)."""
    base = _colour(rng)
    kind = rng.choice(4, p=[0.35, 0.25, 0.2, 0.2])
    image = _gradient(rng, height, width, base)
    if kind == 1:
        image = _bokeh(rng, image)
    elif kind == 2:
        image = _banner(rng, image)
    elif kind == 3:
        image = _street(rng, image)
    return image


def _colour(rng: np.random.Generator) -> np.ndarray:
    """Return a mostly muted colour, float64 RGB (3,) in 0..255."""
    gray = rng.choice([35.0, 90.0, 150.0, 215.0], p=[0.3, 0.25, 0.2, 0.25])
    return np.clip(gray + rng.normal(0, 10) + rng.normal(0, rng.choice([6.0, 30.0], p=[0.7, 0.3]), 3), 5, 250)


def _gradient(rng: np.random.Generator, height: int, width: int, base: np.ndarray) -> Bytes:
    grid = base + rng.normal(0, 14, (3, 3, 1)) + rng.normal(0, 3, (3, 3, 3))
    coarse = np.clip(grid, 0, 255).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR_EXACT).astype(
        np.uint8, copy=False
    )


def _soft(image: Bytes, sigma: float) -> Bytes:
    size = 2 * int(2.5 * sigma) + 1
    return cv2.GaussianBlur(image, (size, size), sigma).astype(np.uint8, copy=False)


def _bokeh(rng: np.random.Generator, image: Bytes) -> Bytes:
    height, width = image.shape[:2]
    discs = image.copy()
    for _ in range(int(rng.integers(8, 26))):
        centre = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        radius = max(2, int(rng.uniform(0.02, 0.09) * width))
        cv2.circle(discs, centre, radius, _colour(rng).tolist(), -1)
    mixed = ((image.astype(np.uint16) * 9 + discs.astype(np.uint16) * 11) // 20).astype(np.uint8)
    return _soft(mixed, float(rng.uniform(1.5, 5.0)))


def _banner(rng: np.random.Generator, image: Bytes) -> Bytes:
    """Rows of lettering, as on the wall behind a red carpet."""
    height, width = image.shape[:2]
    ink = _colour(rng).tolist()
    scale = float(rng.uniform(0.6, 1.8)) * width / 178
    letters = "".join(chr(65 + int(code)) for code in rng.integers(0, 26, 5))
    for row in range(0, height + 60, int(46 * scale)):
        start = int(rng.integers(-int(60 * scale), int(40 * scale)))
        for column in range(start, width, int(150 * scale)):
            cv2.putText(
                image, letters, (column, row), cv2.FONT_HERSHEY_DUPLEX, scale, ink, max(1, int(3 * scale))
            )
    return _soft(image, float(rng.uniform(0.8, 2.5)))


def _street(rng: np.random.Generator, image: Bytes) -> Bytes:
    """Upright and flat blocks, far out of focus."""
    height, width = image.shape[:2]
    for _ in range(int(rng.integers(6, 16))):
        x, y = int(rng.integers(-20, width)), int(rng.integers(-20, height))
        w, h = int(rng.uniform(0.05, 0.4) * width), int(rng.uniform(0.1, 0.7) * height)
        cv2.rectangle(image, (x, y), (x + w, y + h), _colour(rng).tolist(), -1)
    return _soft(image, float(rng.uniform(3.0, 8.0)) * width / 178)
