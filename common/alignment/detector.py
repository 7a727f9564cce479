"""The face detector: facexlib's RetinaFace, and the choice of one face."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from common.hardware import load_weights_only
from common.memory import keep_freed_memory
from common.photo import Photo, Refused, View
from common.pipeline_config import Align

# facexlib is imported late: torchvision behind it takes two seconds, which aligned faces do not need.
if TYPE_CHECKING:
    from facexlib.detection.retinaface import RetinaFace

OVERLAP: Final = 0.4  # Boxes that overlap more, as intersection over union, are of one face; facexlib's value
TILE: Final = 1280  # Longest side in pixels of what the network sees at a time, for which it needs 0.3 GB
# Half of what neighbouring tiles share, in pixels, so that a face of that size is whole in one of them.
MARGIN: Final = 128
DETECT_SIDE: Final = 640  # Longer side in pixels to which larger images are shrunk for the detector at first
# An RGB image, uint8 (H, W, 3), or a photo, of which as much is decoded as is looked at.
Picture = NDArray[np.uint8] | Photo
# Longer side that a reduced view must have to be shrunk to `DETECT_SIDE`. Then no landmark is more than 0.2
# pixels of a crop of 256 from where the full picture has it; without the factor, 1.5 (24 photos of 12 MP).
FIRST_SIDE: Final = 2 * DETECT_SIDE
MIN_VISIBLE: Final = 0.5  # Share of a face's box that must lie inside the image


@dataclass(frozen=True)
class Face:
    """A detected face, in pixels of the image."""

    box: NDArray[np.float64]  # left, top, right, bottom
    score: float  # detector's confidence, 0 to 1
    landmarks: NDArray[np.float64]  # float64 (5, 2), in the order of `FACE_TEMPLATE`
    turns: int = 0  # quarter turns against the clock of the image in which it was detected


@lru_cache(maxsize=1)
def load_detector(name: str, weights: Path) -> "RetinaFace":
    """The detector with checked weights, one per process, on the GPU if there is one."""
    from facexlib.detection import init_detection_model

    load_weights_only()
    torch.set_num_threads(1)
    keep_freed_memory()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return init_detection_model(name, device=device, model_rootpath=str(weights.parent))


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, as the pipeline's workers do: others give landmarks with other last digits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def detect_faces(
    image: Picture, detector: "RetinaFace", config: Align, scale: int = 1, turns: int = 0
) -> list[Face]:
    """All faces of a picture, best score first, in its own pixels.

    For the detector only, an image whose longer side exceeds `scale` times `DETECT_SIDE` is shrunk, and the
    image is turned by `turns` quarter turns against the clock.
    """
    view = view_of(image, max(image.shape[:2]) / (scale * FIRST_SIDE))
    height, width = view.pixels.shape[:2]
    small, shrink = view.pixels, scale * DETECT_SIDE / max(height, width)
    if shrink < 1:
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        small = cv2.resize(small, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    factor = view.reduction * np.array([width / small.shape[1], height / small.shape[0]])
    faces = []
    for row in _detect_in_tiles(np.rot90(small, turns), detector, config.threshold):
        points = np.concatenate([row[:4], row[5:15]]).astype(np.float64).reshape(7, 2)
        for turn in range(turns, 0, -1):
            last = small.shape[1 if turn % 2 else 0] - 1  # of the sides before this turn, the horizontal one
            points = np.column_stack([last - points[:, 1], points[:, 0]])
        points = points * factor + view.corner
        box = np.concatenate([points[:2].min(axis=0), points[:2].max(axis=0)])
        faces.append(Face(box, float(row[4]), points[2:], turns))
    return faces


def view_of(image: Picture, reduction: float) -> View:
    """A picture reduced by at most `reduction`, if it is a large JPEG."""
    return image.view(reduction) if isinstance(image, Photo) else View(image, 1, (0, 0), image.shape[:2])


def overlap(first: Face, second: Face) -> bool:
    """Whether the boxes of two faces have so much in common that they are of one."""
    low, high = np.maximum(first.box[:2], second.box[:2]), np.minimum(first.box[2:], second.box[2:])
    shared = _area(np.concatenate([low, high]))
    return shared / max(_area(first.box) + _area(second.box) - shared, 1e-9) > OVERLAP


def _detect_in_tiles(
    image: NDArray[np.uint8], detector: "RetinaFace", threshold: float
) -> NDArray[np.float32]:
    """`detect` on overlapping tiles of at most `TILE` pixels; each tile has the faces in its middle."""
    by_tile = [np.empty((0, 15), np.float32)]
    cores = [[*range(0, max(1, length - 2 * MARGIN), TILE - 2 * MARGIN)] for length in image.shape[:2]]
    for top, left in product(*cores):
        tile = image[top : top + TILE, left : left + TILE]
        rows = detect(tile, detector, threshold)
        offset = np.array([left, top], np.float32)
        rows[:, :4] += np.tile(offset, 2)
        rows[:, 5:] += np.tile(offset, 5)
        centres = (rows[:, :2] + rows[:, 2:4]) / 2 - offset
        ends = np.array([tile.shape[1], tile.shape[0]])
        last = offset + ends >= [image.shape[1], image.shape[0]]
        first, end = np.where(offset > 0, MARGIN, -np.inf), np.where(last, np.inf, ends - MARGIN)
        by_tile.append(rows[((centres >= first) & (centres < end)).all(axis=1)])
    rows = np.concatenate(by_tile)
    return rows[np.argsort(-rows[:, 4], kind="stable")]


@torch.inference_mode()
def detect(image: NDArray[np.uint8], detector: "RetinaFace", threshold: float) -> NDArray[np.float32]:
    """The same result as facexlib's ``detector.detect_faces`` on an RGB image, faster.

    The anchors of an image size are computed once instead of in Python loops for each image, and only those
    that score above the threshold are decoded. Gives float32 (N, 15), best first: box, score, five landmarks.
    """
    from facexlib.detection.retinaface_utils import decode, decode_landm, py_cpu_nms

    height, width = image.shape[:2]
    device = detector.mean_tensor.device
    pixels = torch.from_numpy(np.ascontiguousarray(image[None, ..., ::-1])).to(device)
    pixels = pixels.permute(0, 3, 1, 2).float() - detector.mean_tensor
    boxes, scores, landmarks = (
        output[0] for output in detector(pixels.contiguous(memory_format=torch.channels_last))
    )
    anchors = _anchors(detector.backbone, height, width).to(device)
    sides, variance = torch.tensor([width, height], device=device), detector.cfg["variance"]
    scores = scores[:, 1]
    likely = torch.nonzero(scores > threshold)[:, 0]
    likely = likely[scores[likely].argsort(descending=True, stable=True)]
    box = decode(boxes[likely], anchors[likely], variance) * sides.repeat(2)
    points = decode_landm(landmarks[likely], anchors[likely], variance) * sides.repeat(5)
    rows = torch.cat((box, scores[likely, None], points), dim=1).float().cpu().numpy()
    return rows[py_cpu_nms(rows[:, :5], OVERLAP)]


@lru_cache(maxsize=64)
def _anchors(backbone: str, height: int, width: int) -> torch.Tensor:
    """Centres and sides of the anchors of an image, float32 (M, 4), as shares of its sides."""
    from facexlib.detection.retinaface import generate_config
    from facexlib.detection.retinaface_utils import PriorBox

    name = {"mobilenet0.25": "mobile0.25", "Resnet50": "resnet50"}[backbone]
    anchors: torch.Tensor = PriorBox(generate_config(name), image_size=(height, width)).forward()
    return anchors


def choose_faces(faces: list[Face], image: Picture, config: Align) -> list[Face]:
    """The faces of an image to keep, by ``config.faces``: one, or every visible one, largest first.

    Raises:
        Refused: ``no-face``, or ``face-outside`` when too little of a face's box lies in the image.
    """
    if not faces:
        tiny = max(image.shape[:2]) <= 128  # likely a face as a whole
        hint = "; --align none takes small pictures of faces as they are" if tiny else ""
        raise Refused("no-face", f"no face scored {config.threshold} or more{hint}")
    height, width = image.shape[:2]

    def inside(face: Face) -> float:
        return _area(np.clip(face.box, 0, [width, height, width, height]))

    def rank(face: Face) -> float:
        if config.faces == "centre":
            return float(np.hypot(*(face.box[:2] + face.box[2:] - [width, height])))
        return -inside(face)

    faces = sorted(faces, key=rank)
    shares = [inside(face) / max(_area(face.box), 1e-9) for face in faces]
    visible = [face for face, share in zip(faces, shares, strict=True) if share >= MIN_VISIBLE]
    if visible and config.faces == "all":
        return visible
    if shares[0] < MIN_VISIBLE:
        raise Refused("face-outside", f"only {shares[0]:.0%} of the face lies in the image")
    return faces[:1]


def _area(box: NDArray[np.float64]) -> float:
    return float(max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1]))
