"""The sample set: its bytes, its layout, and that what the lists say can be seen in the masks."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.classes import CLASSES, NUM_CLASSES
from common.errors import UserError
from synthetic import (
    Moment,
    Person,
    Portrait,
    draw_moment,
    draw_person,
    iterate_portraits,
    paint_person,
    paint_portrait,
    write_dataset,
)
from synthetic.__main__ import main
from synthetic.attributes import CELEBA_ATTRIBUTES
from synthetic.contact_sheet import LARGEST_FILE
from synthetic.person import attributes_of

COUNT = 24
SEED = 5


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """Return a small set on disk."""
    root = tmp_path_factory.mktemp("sample") / "set"
    write_dataset(root, COUNT, SEED, workers=1)
    return root


def contents(root: Path) -> dict[str, bytes]:
    """Return the bytes of all the files below a folder."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def pixels(portrait: Portrait, region: str) -> int:
    """Return how many pixels of the mask belong to the named region."""
    return int((portrait.mask == CLASSES.index(region)).sum())


def plain() -> tuple[Person, Moment]:
    """Return a short-haired man who wears nothing on his head and looks straight ahead."""
    person = draw_person(np.random.default_rng(0))
    moment = draw_moment(person, np.random.default_rng(0))
    face = {"style": "short", "hair": "brown", "bangs": False, "facial_hair": "none", "mustache": False}
    still = dict.fromkeys(("yaw", "pitch", "smile", "mouth_open"), 0.0)
    bare = {**dict.fromkeys(("glasses", "hat", "earrings"), "none"), "necklace": False, "blurry": False}
    return replace(person, male=True, **face), replace(moment, **still, **bare, clothing="crew")


def test_the_same_arguments_give_the_same_bytes_with_any_number_of_processes_and_others_the_same_images(
    sample, tmp_path
):
    write_dataset(tmp_path / "again", COUNT, SEED, workers=3)
    assert contents(tmp_path / "again") == contents(sample)
    write_dataset(tmp_path / "less", 9, SEED, workers=1)
    less = contents(tmp_path / "less")
    images = {name: data for name, data in less.items() if name.endswith((".jpg", ".png"))}
    assert images and images.items() <= contents(sample).items()


def test_running_again_replaces_an_earlier_set_and_leaves_nothing_of_it(tmp_path):
    write_dataset(tmp_path, 6, SEED, workers=1, wild=True)
    write_dataset(tmp_path, 4, SEED, workers=1)
    first = contents(tmp_path)
    write_dataset(tmp_path, 4, SEED, workers=1)
    assert contents(tmp_path) == first
    assert sum(name.endswith(".jpg") for name in first) == 4
    assert not (tmp_path / "img_celeba").exists()


def test_the_layout_is_that_of_celeba(sample):
    lines = (sample / "list_attr_celeba.txt").read_text().splitlines()
    assert int(lines[0]) == COUNT
    assert tuple(lines[1].split()) == CELEBA_ATTRIBUTES
    names = [f"{number:06d}.jpg" for number in range(1, COUNT + 1)]
    assert [line.split()[0] for line in lines[2:]] == names
    assert all(set(line.split()[1:]) <= {"-1", "1"} and len(line.split()) == 41 for line in lines[2:])
    for listing in ("identity_CelebA.txt", "list_eval_partition.txt"):
        rows = [line.split() for line in (sample / listing).read_text().splitlines()]
        assert [row[0] for row in rows] == names
        assert all(row[1].isdigit() for row in rows)


@settings(max_examples=200)
@given(st.integers(0, 2**32 - 1))
def test_for_any_seed_attributes_are_consistent(seed):
    rng = np.random.default_rng(seed)
    person = draw_person(rng)
    attributes = attributes_of(person, draw_moment(person, rng), rng)
    assert tuple(attributes) == CELEBA_ATTRIBUTES
    if attributes["Mustache"]:
        assert attributes["Male"] and not attributes["No_Beard"]
    assert sum(attributes[f"{colour}_Hair"] for colour in ("Black", "Blond", "Brown", "Gray")) <= 1
    if attributes["Bald"] or attributes["Wearing_Hat"]:
        assert not attributes["Bangs"]
    assert not (attributes["Bald"] and attributes["Wearing_Hat"])


@settings(max_examples=12)
@given(st.integers(0, 2**31 - 1), st.booleans())
def test_for_any_seed_image_mask_and_attributes_agree(seed, wild):
    portrait = paint_portrait(0, 1, seed, wild)
    assert portrait.image.dtype == portrait.mask.dtype == np.uint8
    assert portrait.image.shape == (*portrait.mask.shape, 3)
    assert portrait.mask.max() < NUM_CLASSES
    assert portrait.image.std() > 5
    seen = portrait.attributes
    assert (pixels(portrait, "eye_g") > 0) == seen["Eyeglasses"]
    assert (pixels(portrait, "hat") > 0) == seen["Wearing_Hat"]
    assert (pixels(portrait, "mouth") > 0) == seen["Mouth_Slightly_Open"]
    assert (pixels(portrait, "hair") == 0) or not seen["Bald"]
    height, width = portrait.mask.shape
    assert (portrait.landmarks >= 0).all() and (portrait.landmarks < [width, height]).all()


def test_frequencies_are_those_of_celeba():
    rows = []
    for seed in range(4000):
        rng = np.random.default_rng([9, seed])
        person = draw_person(rng)
        rows.append(attributes_of(person, draw_moment(person, rng), rng))
    expected: dict[str, float] = {
        "Male": 0.425, "Young": 0.785, "Smiling": 0.47, "Mouth_Slightly_Open": 0.472, "Eyeglasses": 0.064,
        "Wearing_Hat": 0.048, "Bald": 0.022, "Bangs": 0.146, "Black_Hair": 0.25, "Blond_Hair": 0.142,
        "Brown_Hair": 0.203, "Gray_Hair": 0.042, "Mustache": 0.041, "No_Beard": 0.824,
        "Wearing_Lipstick": 0.467, "Wearing_Earrings": 0.183, "Wearing_Necktie": 0.071,
        "Pale_Skin": 0.044, "Bushy_Eyebrows": 0.142,
    }  # fmt: skip
    measured = {name: np.mean([row[name] for row in rows]) for name in expected}
    assert measured == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(
    ("region", "change"),
    [
        *(("eye_g", {"glasses": kind}) for kind in ("clear", "dark")),
        *(("hat", {"hat": kind}) for kind in ("cap", "beanie", "brim")),
        *(("ear_r", {"earrings": kind}) for kind in ("hoop", "drop", "stud")),
        *(("neck_l", {"necklace": True}), ("mouth", {"mouth_open": 0.2})),
    ],
)
def test_what_is_worn_or_done_shows_in_the_mask(region, change):
    person, moment = plain()
    before, after = (
        pixels(paint_person(person, each, np.random.default_rng(0)), region)
        for each in (moment, replace(moment, **change))
    )
    assert before == 0 and after > 8


def test_eyes_lie_where_celebas_alignment_puts_them_and_wild_ones_in_large_images_tilted_to_30_degrees():
    eyes = np.array([portrait.landmarks[:2] for portrait in iterate_portraits(12, SEED)])
    assert np.abs(eyes - np.array([(69.5, 111.3), (107.5, 111.3)])).max() < 2.0
    wild = list(iterate_portraits(10, SEED, wild=True))
    assert min(min(portrait.image.shape[:2]) for portrait in wild) >= 360
    x, y = np.diff([portrait.landmarks[:2] for portrait in wild], axis=1)[:, 0].T
    tilts = np.degrees(np.arctan2(y, x))
    assert np.abs(tilts).max() <= 30.01 and np.std(tilts) > 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--count", "0"], "--count must be between"),
        (["--count", "1000000"], "--count must be between"),
        (["--seed", "-1"], "--seed must not be negative"),
        (["--workers", "0"], "--workers must be at least 1"),
        (["--count", "2"], "is not empty and holds no earlier sample set"),
    ],
)
def test_bad_numbers_and_folders_are_errors_that_leave_all_alone(arguments, message, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match=message):
        main(["--output", str(tmp_path), *arguments])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_the_contact_sheet_is_a_small_image(tmp_path):
    main(["--contact-sheet", str(tmp_path / "sheet.jpg"), "--seed", "1"])
    assert (tmp_path / "sheet.jpg").stat().st_size < LARGEST_FILE
    assert cv2.imread(str(tmp_path / "sheet.jpg")) is not None
    with pytest.raises(UserError, match="must end in .png"):
        main(["--contact-sheet", str(tmp_path / "sheet.tiff")])
