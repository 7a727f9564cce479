"""The real parser on painted faces with exact masks, and the sides it is corrected to."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.classes import CLASSES, FLIP_CLASSES
from contract.config import load
from contract.shards import decode_face
from pipeline.parse.parser import load_parser, parse_faces
from pipeline.parse.sides import assign_sides
from pipeline.weights import find


def exact_masks(portraits: Path) -> list[np.ndarray]:
    files = sorted((portraits / "masks").glob("*.png"))
    return [cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)[20:198] for file in files]


@pytest.fixture(scope="module")
def faces(portraits: Path) -> np.ndarray:
    files = sorted((portraits / "img_align_celeba").glob("*.jpg"))[:6]
    return np.stack([decode_face(file.read_bytes())[20:198] for file in files])


def test_exact_masks_are_already_on_the_right_sides(portraits: Path) -> None:
    for mask in exact_masks(portraits):
        assert np.mean(assign_sides(mask[None])[0] == mask) > 0.999


def test_swapped_sides_are_put_right(portraits: Path) -> None:
    masks = np.stack(exact_masks(portraits))
    assert np.array_equal(assign_sides(FLIP_CLASSES[masks]), assign_sides(masks))


def test_a_mirrored_mask_is_the_mirror_of_the_mask_with_left_and_right_swapped(portraits: Path) -> None:
    for mask in exact_masks(portraits):
        mirrored = assign_sides(FLIP_CLASSES[mask[:, ::-1]][None])[0]
        expected = FLIP_CLASSES[assign_sides(mask[None])[0][:, ::-1]]
        assert np.mean(mirrored == expected) > 0.999


@given(st.integers(0, 10**6))
@settings(deadline=None, max_examples=30)
def test_nothing_but_brows_eyes_and_ears_changes(seed: int) -> None:
    masks = np.random.default_rng(seed).integers(0, 19, (2, 24, 24)).astype(np.uint8)
    before, after = masks.copy(), assign_sides(masks)
    assert np.array_equal(masks, before)
    same = np.isin(
        before, [CLASSES.index(f"{side}_{part}") for side in "lr" for part in ("brow", "eye", "ear")]
    )
    assert np.array_equal(after[~same], before[~same])
    unsided = np.minimum(before, FLIP_CLASSES[before])
    assert np.array_equal(np.minimum(after, FLIP_CLASSES[after]), unsided)


def test_a_mask_without_a_face_is_left_alone() -> None:
    empty = np.zeros((1, 16, 16), np.uint8)
    assert np.array_equal(assign_sides(empty), empty)


def test_the_real_parser_sees_the_painted_faces(portraits: Path, faces: np.ndarray) -> None:
    config = load()
    masks, confidence = parse_faces(load_parser(find("bisenet", config.weights)), faces, config.parse)
    truth = np.stack(exact_masks(portraits)[: len(faces)])
    for name in ("skin", "hair", "nose", "l_eye", "r_eye"):
        found, real = masks == CLASSES.index(name), truth == CLASSES.index(name)
        if real.sum() > 200:
            assert 2 * (found & real).sum() / (found.sum() + real.sum()) > 0.5, name
    assert masks.dtype == np.uint8
    present = np.stack([np.bincount(mask.ravel(), minlength=19) > 0 for mask in masks])
    assert np.array_equal(confidence > 0, present)
    assert confidence.max() <= 1


def test_bfloat16_and_batches_do_not_change_the_masks(faces: np.ndarray) -> None:
    config = load().parse
    network = load_parser(find("bisenet", load().weights))
    together, _ = parse_faces(network, faces, config)
    alone = np.concatenate([parse_faces(network, face[None], config)[0] for face in faces])
    assert np.mean(together == alone) > 0.999
    exact, _ = parse_faces(network, faces, config.model_copy(update={"precision": "float32"}))
    assert np.mean(together == exact) > 0.99
