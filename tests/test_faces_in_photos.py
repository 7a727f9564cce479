"""Faces on their side, on their head, in crowds: found in painted photos by the real detector."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from facexlib.detection.retinaface import RetinaFace

from common.alignment import crops
from common.alignment.crops import aligned_crops
from common.alignment.detector import choose_faces, detect_faces, detect_faces_of_each, load_detector
from common.alignment.search import find_faces
from common.alignment.warp import FACE_TEMPLATE
from common.config import load
from common.images import Refused
from common.layout import Layout
from common.shards import decode_metadata, read_shard
from common.weights import find
from pipeline.align import shard
from pipeline.align.run import plan, read_plan
from pipeline.ingest.run import ingest
from pipeline.runner.shard_record import read_record
from synthetic import write_dataset

ALIGN = load(settings=["align.mode=detect"]).align
EVERYONE = ALIGN.model_copy(update={"faces": "all"})


@pytest.fixture(scope="module")
def detector() -> RetinaFace:
    return load_detector(ALIGN.detector, find(ALIGN.detector, load().weights))


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, list[np.ndarray]]:
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


def test_pictures_that_are_detected_together_show_the_faces_that_each_shows_alone(
    painted: dict[bool, list[np.ndarray]], detector: RetinaFace
) -> None:
    blank = np.full((300, 200, 3), 128, np.uint8)
    photos = [*painted[True], blank, *painted[False], blank]
    together = detect_faces_of_each(photos, detector, EVERYONE)
    assert len({photo.shape for photo in photos}) > 1
    for photo, faces in zip(photos, together, strict=True):
        alone = detect_faces(photo, detector, EVERYONE)
        assert len(faces) == len(alone)
        for one, other in zip(faces, alone, strict=True):
            assert np.allclose(one.box, other.box, atol=0.01)
            assert np.allclose(one.landmarks, other.landmarks, atol=0.01)
            assert one.score == pytest.approx(other.score, abs=1e-5)


def no_memory(*arguments: object) -> None:
    raise torch.OutOfMemoryError("stand-in for a GPU that is full")


def test_a_shard_has_the_same_rows_however_many_pictures_are_detected_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path / "painted", count=7, seed=3, wild=True, workers=1)
    (folder,) = (tmp_path / "painted").glob("img*")
    folder.rename(tmp_path / "photos")
    noise = np.random.default_rng(0).integers(0, 256, (90, 90, 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "photos" / "noise.png"), noise)
    cv2.imwrite(str(tmp_path / "photos" / "small.png"), noise[:20, :20])
    records, landmarks = [], []
    for number, (count, detect) in enumerate([(1, no_memory), (4, detect_faces_of_each), (4, no_memory)]):
        for module in (shard, crops):
            monkeypatch.setattr(module, "pictures", lambda device, count=count: count)
        monkeypatch.setattr(crops, "detect_faces_of_each", detect)
        layout = Layout.at(tmp_path / f"set-{number}")
        settings = load(
            settings=[f"data.input={tmp_path / 'photos'}", "data.name=photos", "align.mode=detect"]
        )
        ingest(settings, layout)
        for task in plan(read_plan(layout), settings, layout):
            shard.align_shard(task, frozenset(), lambda count: None)
            record = read_record(task.tar)
            assert record is not None
            records.append((record.samples, record.quarantined))
            landmarks += [
                decode_metadata(members["json"])["landmarks"] for _, members in read_shard(task.tar)
            ]
    third = len(records) // 3
    assert records[:third] == records[third : 2 * third] == records[2 * third :]
    assert sorted(row["reason"] for _, refused in records[:third] for row in refused) == [
        "no-face",
        "too-small",
    ]
    alone, together, without_memory = np.split(np.array(landmarks), 3)
    assert np.array_equal(alone, without_memory)
    assert np.allclose(alone, together, atol=0.01)


@pytest.mark.parametrize("degrees", [90, 135, 180, 270], ids="turned by {} degrees".format)
def test_a_face_is_aligned_upright_however_its_photo_lies(
    degrees: int, painted: dict[bool, list[np.ndarray]], detector: RetinaFace
) -> None:
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


def test_everyone_in_a_group_photo_is_found_once(
    painted: dict[bool, list[np.ndarray]], detector: RetinaFace
) -> None:
    photo, centres = crowd(painted[False], rows=6, columns=10)
    assert not detect_faces(photo, detector, EVERYONE)
    found = np.array([face.box.reshape(2, 2).mean(axis=0) for face in find_faces(photo, detector, EVERYONE)])
    distances = np.linalg.norm(found[:, None] - centres[None], axis=2)
    assert len(found) == 60
    assert (distances.min(axis=0) < 30).all()


def test_a_tiny_picture_without_a_face_is_refused_with_what_to_do(detector: RetinaFace) -> None:
    with pytest.raises(Refused, match="--align none"):
        aligned_crops(np.full((48, 48, 3), 128, np.uint8), ALIGN, detector)
    with pytest.raises(Refused) as refused:
        aligned_crops(np.full((480, 480, 3), 128, np.uint8), ALIGN, detector)
    assert "--align" not in refused.value.detail
