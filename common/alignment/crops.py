"""From one image to its aligned faces."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from common.alignment.detector import Face, Picture, choose_faces, view_of
from common.alignment.search import find_faces
from common.alignment.warp import FACE_TEMPLATE, central_square, similarity, warp_view
from common.photo import Refused
from common.pipeline_config import Align

if TYPE_CHECKING:
    from facexlib.detection.retinaface import RetinaFace


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
    image: Picture,
    config: Align,
    detector: "RetinaFace | None",
    template: NDArray[np.float64] = FACE_TEMPLATE,
) -> list[Crop]:
    """The aligned faces of a picture: one, or all with that policy, largest first.

    Landmarks are warped to `template`, float64 (5, 2), shares of the crop's side. Without a detector, the one
    face is the image's central square.

    Raises:
        Refused: ``no-face`` or ``face-outside``.
    """
    if detector is None:
        # What `warp` makes by this matrix, at a tenth of its cost and without gray edges.
        matrix = central_square(image.shape[1], image.shape[0], config.size)
        side = min(image.shape[:2])
        top, left = ((length - side) // 2 for length in image.shape[:2])
        interpolation = cv2.INTER_AREA if config.size < 0.75 * side else cv2.INTER_CUBIC
        square = view_of(image, 1).pixels[top : top + side, left : left + side]
        resized = cv2.resize(square, (config.size, config.size), interpolation=interpolation)
        return [Crop(resized.astype(np.uint8, copy=False), matrix, None, None)]
    faces = find_faces(image, detector, config)
    crops = []
    for face in choose_faces(faces, image, config):
        matrix = similarity(face.landmarks, template * config.size)
        view = view_of(image, 1 / np.hypot(matrix[0, 0], matrix[1, 0]))
        crops.append(Crop(warp_view(view, matrix, config.size), matrix, face, len(faces)))
    return crops


def crops_of_each(
    images: Sequence[Picture],
    config: Align,
    detector: "RetinaFace | None",
    template: NDArray[np.float64] = FACE_TEMPLATE,
) -> Iterator[list[Crop] | Refused]:
    """What `aligned_crops` gives for each of several images, or raises."""
    for image in images:
        try:
            yield aligned_crops(image, config, detector, template)
        except Refused as refused:
            yield refused
