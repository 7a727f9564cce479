"""Faces on their side, on their head, in crowds: found in painted photos by the real detector."""

import io

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image

from common import images
from common.alignment.crops import aligned_crops, find_faces
from common.alignment.detector import FIRST_SIDE, choose_faces, detect_faces, load_detector
from common.alignment.warp import FACE_TEMPLATE
from common.config import load
from common.photo import Refused
from common.weights import find
from synthetic import write_dataset

ALIGN = load(settings=["align.mode=detect"]).align
ALL_FACES = ALIGN.model_copy(update={"faces": "all"})


@pytest.fixture(scope="module")
def detector():
    return load_detector(ALIGN.detector, find(ALIGN.detector, load().weights))


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    """Photos by whether their face lies anywhere and is tilted."""
    folder = tmp_path_factory.mktemp("painted")
    for wild in (False, True):
        write_dataset(folder / str(wild), count=6, seed=3, wild=wild, workers=1)
    return {
        wild: [
            cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
            for path in sorted((folder / str(wild)).glob("img*/*"))
        ]
        for wild in (False, True)
    }


def turned(image: np.ndarray, degrees: int) -> tuple[np.ndarray, np.ndarray]:
    """A photo turned clockwise, and the matrix from its pixels to those of the result."""
    height, width = image.shape[:2]
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    size = [round(abs(width * cos) + abs(height * sin)), round(abs(width * sin) + abs(height * cos))]
    linear = np.array([[cos, -sin], [sin, cos]])
    shift = (np.array(size) - 1) / 2 - linear @ ((np.array([width, height]) - 1) / 2)
    matrix = np.column_stack([linear, shift])
    return cv2.warpAffine(image, matrix, size, borderValue=(128, 128, 128)), matrix


@pytest.mark.parametrize("degrees", [90, 135, 180, 270], ids="turned by {} degrees".format)
def test_a_face_is_aligned_upright_however_its_photo_lies(degrees, painted, detector):
    for image in painted[True]:
        landmarks = choose_faces(detect_faces(image, detector, ALIGN), image, ALIGN)[0].landmarks
        photo, matrix = turned(image, degrees)
        (crop,) = aligned_crops(photo, ALIGN, detector)
        seen = landmarks @ matrix[:, :2].T + matrix[:, 2]
        seen = (seen @ crop.matrix[:, :2].T + crop.matrix[:, 2]) / ALIGN.size
        assert np.abs(seen - FACE_TEMPLATE).max() < 0.1


def crowd(portraits: list[np.ndarray], rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """A photo of 300 x 333 pixels for each of many faces of 50 pixels, and their centres."""
    photo = np.full((rows * 333, columns * 300, 3), (140, 150, 130), np.uint8)
    centres = []
    for number in range(rows * columns):
        portrait = cv2.resize(portraits[number % len(portraits)], None, fx=0.5, fy=0.5)
        height, width = portrait.shape[:2]
        top, left = number // columns * 333 + 100, number % columns * 300 + 90
        photo[top : top + height, left : left + width] = portrait
        centres.append((left + width / 2, top + height / 2))
    return photo, np.array(centres)


def test_everyone_in_a_group_photo_is_found_once(painted, detector):
    photo, centres = crowd(painted[False], rows=6, columns=10)
    assert not detect_faces(photo, detector, ALL_FACES)
    found = np.array([face.box.reshape(2, 2).mean(axis=0) for face in find_faces(photo, detector, ALL_FACES)])
    distances = np.linalg.norm(found[:, None] - centres[None], axis=2)
    assert len(found) == 60
    assert (distances.min(axis=0) < 30).all()


def test_a_tiny_picture_without_a_face_is_refused_with_what_to_do(detector):
    with pytest.raises(Refused, match="--align none"):
        aligned_crops(np.full((48, 48, 3), 128, np.uint8), ALIGN, detector)
    with pytest.raises(Refused) as refused:
        aligned_crops(np.full((480, 480, 3), 128, np.uint8), ALIGN, detector)
    assert "--align" not in refused.value.detail


@pytest.mark.parametrize("orientation", [*images.UPRIGHT], ids="EXIF orientation {}".format)
def test_a_large_jpeg_gives_the_crop_of_its_full_picture_from_a_reduced_one(orientation, painted, detector):
    upright = cv2.resize(painted[False][0], (1780, 2180), interpolation=cv2.INTER_CUBIC)
    upright = cv2.copyMakeBorder(upright, 300, 301, 400, 426, cv2.BORDER_CONSTANT, value=(90, 110, 140))
    turns, mirrored = images.UPRIGHT[orientation]
    exif, stream = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = orientation
    filed = Image.fromarray(np.rot90(upright, -turns)[:, :: -1 if mirrored else 1])
    filed.save(stream, "jpeg", quality=92, subsampling=0, exif=exif)
    full = images.decode_photo(stream.getvalue(), 10**8).image
    photo = images.decode_photo(stream.getvalue(), 10**8, FIRST_SIDE)
    eighth = photo.view(8.9)
    (height, width), (left, top) = eighth.pixels.shape[:2], eighth.corner
    blocks = full[top : top + 8 * height, left : left + 8 * width].reshape(height, 8, width, 8, 3)
    assert photo.shape == full.shape[:2] and (height, width) == (2781 // 8, 2606 // 8)
    assert np.abs(blocks.mean((1, 3)) - eighth.pixels).max() < 4
    (expected,), (crop,) = aligned_crops(full, ALIGN, detector), aligned_crops(photo, ALIGN, detector)
    assert expected.face is not None and crop.face is not None
    moved = (crop.face.landmarks - expected.face.landmarks) @ expected.matrix[:, :2].T
    assert np.abs(moved).max() < 1
    assert np.abs(crop.image.astype(int) - expected.image).mean() < 2


def test_a_small_jpeg_is_always_decoded_in_full(painted):
    data = cv2.imencode(".jpg", painted[True][0])[1].tobytes()
    view = images.decode_photo(data, 10**8, side=64).view(8)
    assert view.reduction == 1
    assert np.array_equal(view.pixels, images.decode_photo(data, 10**8).image)
