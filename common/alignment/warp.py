"""The geometry of alignment: similarity transforms from landmarks, and the warp itself."""

from itertools import product
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from common.photo import REDUCED_FROM, View

_EYES: Final = [[192.98138, 239.94708], [318.90277, 240.1936]]
_MOUTH: Final = [[201.26117, 371.41043], [313.08905, 371.15118]]
# The five landmarks in facexlib's crops, as shares of the side, float64 (5, 2): the eye on the image's left,
# the one on its right, nose tip, mouth corner on the left, mouth corner on the right.
FACE_TEMPLATE: Final = np.array([*_EYES, [256.63416, 314.01935], *_MOUTH]) / 512


def similarity(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """The similarity transform that best maps `source` points to `target` points, float (N, 2) each.

    Closed-form least squares (Umeyama 1991), without reflection: float64 (2, 3), ``target ~ source @ M[:,
    :2].T + M[:, 2]``.

    Raises:
        ValueError: the source points coincide.
    """
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    centred, aimed = source - source_mean, target - target_mean
    variance = (centred**2).sum() / len(source)
    if variance < 1e-12:
        raise ValueError("the landmarks coincide")
    u, singular, vt = np.linalg.svd(aimed.T @ centred / len(source))
    sign = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ np.diag(sign) @ vt
    scale = (singular * sign).sum() / variance
    linear = scale * rotation
    return np.column_stack([linear, target_mean - linear @ source_mean])


def central_square(width: int, height: int, size: int) -> NDArray[np.float64]:
    """The float64 (2, 3) matrix that maps an image's central square to size x size pixels.

    Pixel centres are at integers, so the matrix holds the half-pixel shift of a resize.
    """
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    scale = size / side
    shift = 0.5 * scale - 0.5
    return np.array([[scale, 0.0, shift - left * scale], [0.0, scale, shift - top * scale]])


def warp_view(view: View, matrix: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
    """`warp` of the picture that `view` shows, by a matrix of the picture's pixel centres.

    Of a large picture only what the face needs is read; small ones keep the bytes that they always had.
    """
    corner = np.array(view.corner) + (view.reduction - 1) / 2
    linear, shift = matrix[:, :2] * view.reduction, matrix[:, 2] + matrix[:, :2] @ corner
    pixels = view.pixels
    if np.prod(view.shape) >= REDUCED_FROM:
        # Shrinking and cubic interpolation may read 4 pixels around the face.
        ends = np.array(list(product((-4, size + 4), repeat=2)))
        needed = (ends - shift) @ np.linalg.inv(linear).T
        last = np.array(pixels.shape[1::-1]) - 1
        left, top = low = np.clip(np.floor(needed.min(axis=0)), 0, last).astype(int)
        right, bottom = np.clip(np.ceil(needed.max(axis=0)), low, last).astype(int) + 1
        pixels, shift = pixels[top:bottom, left:right], shift + linear @ low
    return warp(pixels, np.column_stack([linear, shift]), size)


def warp(image: NDArray[np.uint8], matrix: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
    """Warp an image, uint8 (H, W, 3), to a square face, uint8 (size, size, 3).

    `matrix`, float64 (2, 3), is of a similarity from source to target pixel centres. A face that becomes much
    smaller is first shrunk by area averaging, to avoid aliasing.
    """
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if scale < 0.75:
        height, width = image.shape[:2]
        small = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        factor = np.array([width / small[0], height / small[1]])
        matrix = np.column_stack(
            [matrix[:, :2] * factor, matrix[:, 2] + matrix[:, :2] @ (0.5 * factor - 0.5)]
        )
    gray = (132, 133, 135)  # with which facexlib fills what lies outside the image
    return cv2.warpAffine(
        image, matrix, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_CONSTANT, borderValue=gray
    ).astype(np.uint8, copy=False)
