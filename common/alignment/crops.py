"""From one image to its aligned faces."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from common.alignment.detector import Face, choose_faces, detect_faces_of_each
from common.alignment.search import find_faces
from common.alignment.warp import FACE_TEMPLATE, central_square, similarity, warp
from common.hardware import hardware
from common.images import Refused
from common.pipeline_config import Align

if TYPE_CHECKING:
    from facexlib.detection.retinaface import RetinaFace

GPU_PICTURES: Final = 16
"""Pictures that a GPU is given together; never measured, since no GPU was at hand."""

MOST_PIXELS: Final = 50_000_000
"""Of the pictures that are detected together, in memory at a time."""


@dataclass(frozen=True)
class Crop:
    """An aligned face.

    Attributes:
        image: uint8 RGB (S, S, 3).
        matrix: float64 (2, 3), image to crop, pixel centres at integers.
        face: the detected face; None where the central square was taken.
        detected: how many faces the detector found in the image, or None.
    """

    image: NDArray[np.uint8]
    matrix: NDArray[np.float64]
    face: Face | None
    detected: int | None


def aligned_crops(
    image: NDArray[np.uint8],
    config: Align,
    detector: "RetinaFace | None",
    template: NDArray[np.float64] = FACE_TEMPLATE,
    seen: list[Face] | None = None,
) -> list[Crop]:
    """The aligned faces of an RGB image, uint8 (H, W, 3): one, or all with that policy, largest first.

    Landmarks are warped to `template`, float64 (5, 2), shares of the crop's side. Without a detector, the one
    face is the image's central square. For `seen` see `find_faces`.

    Raises:
        Refused: ``no-face`` or ``face-outside``.
    """
    if detector is None:
        # What `warp` makes by this matrix, at a tenth of its cost and without gray edges.
        matrix = central_square(image.shape[1], image.shape[0], config.size)
        side = min(image.shape[:2])
        top, left = ((length - side) // 2 for length in image.shape[:2])
        interpolation = cv2.INTER_AREA if config.size < 0.75 * side else cv2.INTER_CUBIC
        square = image[top : top + side, left : left + side]
        resized = cv2.resize(square, (config.size, config.size), interpolation=interpolation)
        return [Crop(resized.astype(np.uint8, copy=False), matrix, None, None)]
    faces = find_faces(image, detector, config, seen)
    crops = []
    for face in choose_faces(faces, image, config):
        matrix = similarity(face.landmarks, template * config.size)
        crops.append(Crop(warp(image, matrix, config.size), matrix, face, len(faces)))
    return crops


def crops_of_each(
    images: Sequence[NDArray[np.uint8]],
    config: Align,
    detector: "RetinaFace | None",
    template: NDArray[np.float64] = FACE_TEMPLATE,
) -> Iterator[list[Crop] | Refused]:
    """What `aligned_crops` gives for each of several images, or raises; a GPU detects in them together."""
    detected: Iterator[list[Face] | None] = repeat(None)
    if detector is not None and min(len(images), pictures(hardware().device)) > 1:
        # Where the memory does not hold them together, each is detected alone.
        with suppress(torch.OutOfMemoryError):
            detected = iter(detect_faces_of_each(images, detector, config))
    for image, seen in zip(images, detected, strict=False):
        try:
            yield aligned_crops(image, config, detector, template, seen)
        except Refused as refused:
            yield refused


def pictures(device: torch.device) -> int:
    """How many pictures are detected together; a CPU gains nothing by more than one."""
    return 1 if device.type == "cpu" else GPU_PICTURES
