"""All faces of a photo, in four orientations and at several scales where the first look is not enough."""

from typing import TYPE_CHECKING, Final

import numpy as np

from common.alignment.detector import DETECT_SIDE, OVERLAP, Face, Picture, detect_faces, overlap
from common.alignment.warp import FACE_TEMPLATE, similarity
from common.pipeline_config import Align

if TYPE_CHECKING:
    from facexlib.detection.retinaface import RetinaFace

SOUND: Final = 0.6
"""Quality of a face below which the other orientations are tried; upright faces have 0.8 and more."""

SCALES: Final = (3, 6)
"""Further sides at which a photo is searched, as multiples of `DETECT_SIDE`; the last for ``all`` only."""

SMALL: Final = 40
"""Side of a face, in pixels of the detector's image, below which others may be too small to be seen."""


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
        faces = larger + [face for face in faces if all(overlap(face, other) <= OVERLAP for other in larger)]
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
