"""From one image to its aligned faces, found in four orientations and at several scales if need be."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from common.alignment.detector import DETECT_SIDE, Face, Picture, choose_faces, detect_faces, overlap, view_of
from common.alignment.warp import FACE_TEMPLATE, central_square, similarity, warp_view
from common.photo import Refused
from common.pipeline_config import Align

if TYPE_CHECKING:
    from facexlib.detection.retinaface import RetinaFace

# Quality of a face below which the other orientations are tried; upright faces have 0.8 and more.
SOUND: Final = 0.6
# Further sides at which a photo is searched, as multiples of `DETECT_SIDE`; the last for ``all`` only.
SCALES: Final = (3, 6)
# Side of a face, in pixels of the detector's image, below which others may be too small to be seen.
SMALL: Final = 40


@dataclass(frozen=True)
class Crop:
    """An aligned face."""

    image: NDArray[np.uint8]  # uint8 RGB (S, S, 3)
    matrix: NDArray[np.float64]  # float64 (2, 3), image to crop, pixel centres at integers
    face: Face | None  # the detected face; None where the central square was taken
    detected: int | None  # how many faces the detector found in the image, or None


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


def find_faces(image: Picture, detector: "RetinaFace", config: Align) -> list[Face]:
    """The faces of a picture, in its own pixels, whatever its orientation.

    The image is searched at `DETECT_SIDE` as it is. If that shows no face, or its largest one as if the
    photo lay on its side or its head, also after each quarter turn, of which the best is taken. If there is
    still no face, or with the policy ``all`` a small one, larger scales add faces.
    """
    faces = detect_faces(image, detector, config)
    if quality(faces) < SOUND:
        turned = [detect_faces(image, detector, config, turns=turns) for turns in (1, 2, 3)]
        faces = max([faces, *turned], key=quality)
    keep_all = config.faces == "all"
    shrink = DETECT_SIDE / max(image.shape[:2])
    for scale in SCALES if keep_all else SCALES[:1]:
        if shrink >= 1 or (faces and not (keep_all and min(map(side, faces)) * shrink < SMALL)):
            break
        larger = detect_faces(image, detector, config, scale=scale)
        faces = larger + [face for face in faces if not any(overlap(face, other) for other in larger)]
        shrink = scale * DETECT_SIDE / max(image.shape[:2])
    return faces


def quality(faces: list[Face]) -> float:
    """How upright and well-formed the largest of the faces is, up to 1; 0 without faces.

    The score, times the cosine of the face's tilt in the orientation in which it was detected, less four
    times the greatest distance of a landmark from the template, as a share of the crop's side.
    """
    if not faces:
        return 0.0
    face = max(faces, key=side)
    matrix = similarity(face.landmarks, FACE_TEMPLATE)
    angle = np.arctan2(matrix[1, 0], matrix[0, 0]) + face.turns * np.pi / 2
    distance = np.abs(face.landmarks @ matrix[:, :2].T + matrix[:, 2] - FACE_TEMPLATE).max()
    return float(face.score * np.cos(angle) - 4 * distance)


def side(face: Face) -> float:
    """The side of a square with the area of a face's box, in pixels."""
    return float(np.sqrt(np.prod(np.maximum(face.box[2:] - face.box[:2], 0))))
