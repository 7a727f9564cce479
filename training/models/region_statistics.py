"""Colour, position and size of the face regions, from a face and its mask."""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from common.classes import NUM_CLASSES

STATISTICS: Final = 11
"""Per region: mean and standard deviation of the three channels of CIELAB, mean and standard deviation of
the row and of the column, and the square root of the area."""

STRIDE: Final = 2
"""Every second row and column is read."""


def region_statistics(images: Tensor, masks: Tensor) -> NDArray[np.float64]:
    """The statistics of all regions of a batch of faces.

    Args:
        images: uint8 (B, 3, S, S), RGB.
        masks: uint8 (B, S, S), classes 0..18.

    Returns:
        float64 (B, 19, 11). Colours are in 8-bit CIELAB, positions and areas in shares of the face; all
        are 0 for an absent region.
    """
    pixels = images.permute(0, 2, 3, 1).numpy()[:, ::STRIDE, ::STRIDE]
    classes = masks.numpy()[:, ::STRIDE, ::STRIDE]
    lab = np.stack([cv2.cvtColor(np.ascontiguousarray(each), cv2.COLOR_RGB2LAB) for each in pixels])
    faces, height, width = classes.shape
    bins = (np.arange(faces)[:, None, None] * NUM_CLASSES + classes).ravel()

    def by_region(values: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = np.bincount(bins, values.ravel(), faces * NUM_CLASSES)
        return sums.astype(np.float64).reshape(faces, NUM_CLASSES)

    count = by_region(np.ones(classes.shape))
    rows = np.broadcast_to(np.arange(height)[:, None] / height, classes.shape)
    columns = np.broadcast_to(np.arange(width) / width, classes.shape)
    means, deviations = [], []
    for values in (*np.moveaxis(lab.astype(np.float64), -1, 0), rows, columns):
        mean = by_region(values) / np.maximum(count, 1)
        variance = by_region(values**2) / np.maximum(count, 1) - mean**2
        means.append(mean)
        deviations.append(np.sqrt(np.maximum(variance, 0)))
    area = np.sqrt(count / (height * width))
    return np.stack([*means, *deviations, area], axis=-1)
