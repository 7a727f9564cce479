"""A face tinted by its parsing mask, as every page and image of this project shows it."""

import numpy as np
from numpy.typing import NDArray

from common.classes import CLASS_COLOURS


def mask_overlay(
    image: NDArray[np.uint8], mask: NDArray[np.uint8], colours: NDArray[np.uint8] = CLASS_COLOURS
) -> NDArray[np.uint8]:
    """Two parts of the image to three of the colours of its classes.

    Args:
        image: uint8 RGB (H, W, 3).
        mask: uint8 (H, W), indices into `colours`.
        colours: uint8 RGB (C, 3), by default of the 19 parsing classes.

    Returns:
        uint8 RGB (H, W, 3).
    """
    tint = colours[mask].astype(np.uint16)
    return ((image.astype(np.uint16) * 2 + tint * 3) // 5).astype(np.uint8)
