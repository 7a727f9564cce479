"""The sample set: its bytes, its layout, and that what the lists say can be seen in the masks."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.classes import CLASSES, NUM_CLASSES
from common.errors import UserError
from synthetic import (
    DRAWN_ATTRIBUTES,
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
from synthetic.dataset import draw_identities, partition_of
from synthetic.frequencies import COIN_ODDS
from synthetic.person import attributes_of

COUNT = 24
SEED = 5


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small set on disk."""
    root = tmp_path_factory.mktemp("sample") / "set"
    write_dataset(root, COUNT, SEED, workers=1)
    return root


@pytest.fixture(scope="module")
def wild_portraits() -> list[Portrait]:
    """Return some wild portraits."""
    return list(iterate_portraits(10, SEED, wild=True))


def contents(root: Path) -> dict[str, bytes]:
    """Return the bytes of all the files below a folder."""
    return {
        str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
    }


def pixels(portrait: Portrait, *regions: str) -> int:
    """Return how many pixels of the mask belong to the named regions."""
    return int(np.isin(portrait.mask, [CLASSES.index(region) for region in regions]).sum())


def plain(seed: int = 0) -> tuple[Person, Moment]:
    """Return a short-haired man who wears nothing on his head and looks straight ahead."""
    person = draw_person(np.random.default_rng(seed))
    moment = draw_moment(person, np.random.default_rng(seed))
    person = replace(
        person, male=True, style="short", hair="brown", bangs=False, facial_hair="none", mustache=False
    )
    moment = replace(
        moment, yaw=0.0, pitch=0.0, smile=0.0, mouth_open=0.0, glasses="none", hat="none", earrings="none",
        necklace=False, clothing="crew", blurry=False,
    )  # fmt: skip
    return person, moment


def painted(person: Person, moment: Moment, seed: int = 0) -> Portrait:
    """Return the portrait with textures, light and background of a seed."""
    return paint_person(person, moment, np.random.default_rng(seed))


def test_the_same_arguments_give_the_same_bytes_with_any_number_of_processes(
    sample: Path, tmp_path: Path
) -> None:
    write_dataset(tmp_path / "again", COUNT, SEED, workers=3)
    assert contents(tmp_path / "again") == contents(sample)


def test_another_seed_gives_other_images() -> None:
    assert not np.array_equal(paint_portrait(0, 1, 1).image, paint_portrait(0, 1, 2).image)


def test_an_image_does_not_depend_on_the_size_of_the_set(sample: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "less", 9, SEED, workers=1)
    for name, data in contents(tmp_path / "less").items():
        if name.endswith((".jpg", ".png")):
            assert (sample / name).read_bytes() == data


def test_running_again_replaces_an_earlier_set_and_leaves_nothing_of_it(tmp_path: Path) -> None:
    write_dataset(tmp_path, 6, SEED, workers=1, wild=True)
    write_dataset(tmp_path, 4, SEED, workers=1)
    first = contents(tmp_path)
    write_dataset(tmp_path, 4, SEED, workers=1)
    assert contents(tmp_path) == first
    assert sum(name.endswith(".jpg") for name in first) == 4
    assert not (tmp_path / "img_celeba").exists()


def test_the_layout_is_that_of_celeba(sample: Path) -> None:
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


def test_every_image_has_the_aligned_size_and_a_mask_of_known_classes(sample: Path) -> None:
    for number in range(1, COUNT + 1):
        image = cv2.imread(str(sample / "img_align_celeba" / f"{number:06d}.jpg"))
        mask = cv2.imread(str(sample / "masks" / f"{number:06d}.png"), cv2.IMREAD_UNCHANGED)
        assert image is not None and image.shape == (218, 178, 3)
        assert mask is not None and mask.shape == (218, 178) and mask.dtype == np.uint8
        assert mask.max() < NUM_CLASSES
        assert {"skin", "nose", "u_lip", "l_lip", "neck", "cloth"} <= {
            CLASSES[index] for index in np.unique(mask)
        }


def test_the_readme_names_the_attributes_that_are_drawn_and_those_that_are_not(sample: Path) -> None:
    text = (sample / "README.md").read_text()
    assert all(name in text for name in CELEBA_ATTRIBUTES)
    assert set(DRAWN_ATTRIBUTES) | set(COIN_ODDS) == set(CELEBA_ATTRIBUTES)
    assert not set(DRAWN_ATTRIBUTES) & set(COIN_ODDS)


def test_nobody_is_in_two_partitions(sample: Path) -> None:
    people = dict(line.split() for line in (sample / "identity_CelebA.txt").read_text().splitlines())
    partitions = defaultdict(set)
    for line in (sample / "list_eval_partition.txt").read_text().splitlines():
        name, partition = line.split()
        partitions[people[name]].add(partition)
    assert all(len(found) == 1 for found in partitions.values())


def test_partitions_hold_about_70_10_and_20_percent_of_the_images() -> None:
    shares = (
        np.bincount([partition_of(int(person), 3) for person in draw_identities(3000, 3)], minlength=3) / 3000
    )
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.03)


def test_people_have_several_images_that_differ() -> None:
    identities, images = np.unique(draw_identities(1200, 0), return_counts=True)
    assert identities[0] == 1 and 3 <= images.mean() <= 8
    assert not np.array_equal(paint_portrait(0, 7, SEED).image, paint_portrait(1, 7, SEED).image)


def test_lasting_traits_stay_with_the_person() -> None:
    portraits = [paint_portrait(index, 3, SEED) for index in range(4)]
    for name in ("Male", "Young", "Bald", "Mustache", "No_Beard", "Pale_Skin", "Bushy_Eyebrows"):
        assert len({portrait.attributes[name] for portrait in portraits}) == 1


def test_the_eyes_lie_where_celebas_alignment_puts_them() -> None:
    eyes = np.array([portrait.landmarks[:2] for portrait in iterate_portraits(12, SEED)])
    assert np.abs(eyes - np.array([(69.5, 111.3), (107.5, 111.3)])).max() < 2.0


def test_the_eye_on_the_right_of_the_image_is_the_subjects_left() -> None:
    portrait = painted(*plain())
    for part, landmark in (("r_eye", 0), ("l_eye", 1)):
        centre = np.argwhere(portrait.mask == CLASSES.index(part)).mean(axis=0)[::-1]
        assert np.hypot(*(centre - portrait.landmarks[landmark])) < 3


def test_the_mouth_corners_lie_at_the_ends_of_the_lips() -> None:
    portrait = painted(*plain())
    columns = np.nonzero(np.isin(portrait.mask, [CLASSES.index("u_lip"), CLASSES.index("l_lip")]))[1]
    assert [columns.min(), columns.max()] == pytest.approx(portrait.landmarks[3:, 0].tolist(), abs=2.5)


@settings(max_examples=200)
@given(st.integers(0, 2**32 - 1))
def test_for_any_seed_attributes_are_consistent(seed: int) -> None:
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
def test_for_any_seed_image_mask_and_attributes_agree(seed: int, wild: bool) -> None:
    portrait = paint_portrait(0, 1, seed, wild)
    assert portrait.image.dtype == portrait.mask.dtype == np.uint8
    assert portrait.image.shape == (*portrait.mask.shape, 3)
    assert portrait.mask.max() < NUM_CLASSES
    assert portrait.image.std() > 5
    seen = portrait.attributes
    assert (pixels(portrait, "eye_g") > 0) == seen["Eyeglasses"]
    assert (pixels(portrait, "hat") > 0) == seen["Wearing_Hat"]
    assert (pixels(portrait, "mouth") > 0) == seen["Mouth_Slightly_Open"]
    if seen["Bald"]:
        assert pixels(portrait, "hair") == 0
    height, width = portrait.mask.shape
    assert (portrait.landmarks >= 0).all() and (portrait.landmarks < [width, height]).all()


def test_frequencies_are_those_of_celeba() -> None:
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
    ("change", "regions"),
    [
        ({"glasses": "clear"}, ("eye_g",)),
        ({"glasses": "dark"}, ("eye_g",)),
        ({"hat": "cap"}, ("hat",)),
        ({"hat": "beanie"}, ("hat",)),
        ({"hat": "brim"}, ("hat",)),
        ({"earrings": "hoop"}, ("ear_r",)),
        ({"earrings": "drop"}, ("ear_r",)),
        ({"earrings": "stud"}, ("ear_r",)),
        ({"necklace": True}, ("neck_l",)),
        ({"mouth_open": 0.2}, ("mouth",)),
    ],
)
def test_what_is_worn_or_done_shows_in_the_mask(change: dict[str, Any], regions: tuple[str, ...]) -> None:
    person, moment = plain()
    assert pixels(painted(person, moment), *regions) == 0
    assert pixels(painted(person, replace(moment, **change)), *regions) > 8


def test_a_bald_person_has_no_hair_and_others_have() -> None:
    person, moment = plain()
    assert pixels(painted(person, moment), "hair") > 1500
    assert pixels(painted(replace(person, style="bald", hair="bald"), moment), "hair") == 0


def test_bangs_cover_the_forehead() -> None:
    person, moment = plain()
    without, fringed = painted(person, moment), painted(replace(person, bangs=True), moment)
    forehead = (slice(70, 95), slice(70, 108))
    hair = CLASSES.index("hair")
    assert (fringed.mask[forehead] == hair).mean() > (without.mask[forehead] == hair).mean() + 0.3


def test_bushy_eyebrows_are_larger() -> None:
    person, moment = plain()
    thin = painted(replace(person, brow_weight=1.0), moment)
    bushy = painted(replace(person, brow_weight=1.8), moment)
    assert pixels(bushy, "l_brow", "r_brow") > 1.4 * pixels(thin, "l_brow", "r_brow")


@pytest.mark.parametrize("change", [{"smile": 1.0}, {"clothing": "tie"}, {"lipstick": True}])
def test_smiles_neckties_and_lipstick_change_the_image(change: dict[str, Any]) -> None:
    person, moment = plain()
    moment = replace(moment, lipstick=False)
    before, after = painted(person, moment), painted(person, replace(moment, **change))
    assert not np.array_equal(before.image, after.image)


@pytest.mark.parametrize(
    ("facial_hair", "mustache"), [("mustache", True), ("beard", False), ("stubble", False)]
)
def test_facial_hair_darkens_the_image_but_stays_skin(facial_hair: str, mustache: bool) -> None:
    person, moment = plain()
    person = replace(person, hair_colour=(0.1, 0.1, 0.1), melanin=0.2)
    bearded = painted(replace(person, facial_hair=facial_hair, mustache=mustache), moment)
    shaved = painted(person, moment)
    assert np.array_equal(bearded.mask, shaved.mask)
    above_lip = (slice(142, 149), slice(78, 99)) if mustache else (slice(160, 174), slice(78, 99))
    assert bearded.image[above_lip].mean() < shaved.image[above_lip].mean() - 5


def test_hair_colours_look_like_their_names() -> None:
    def mean_colour(hair: tuple[float, float, float]) -> np.ndarray:
        person, moment = plain()
        portrait = painted(replace(person, hair_colour=hair), moment)
        return portrait.image[portrait.mask == CLASSES.index("hair")].mean(axis=0)

    black, blond, gray = (
        mean_colour(hair) for hair in ((0.1, 0.085, 0.08), (0.8, 0.64, 0.4), (0.66, 0.65, 0.64))
    )
    assert black.mean() < gray.mean() and black.mean() < blond.mean()
    assert blond[0] - blond[2] > gray[0] - gray[2] + 20


def test_wild_faces_are_inside_large_images_and_tilted_within_30_degrees(
    wild_portraits: list[Portrait],
) -> None:
    tilts = []
    for portrait in wild_portraits:
        assert min(portrait.image.shape[:2]) >= 360
        assert portrait.mask.shape == portrait.image.shape[:2]
        (left, right) = portrait.landmarks[:2]
        tilt = np.degrees(np.arctan2(right[1] - left[1], right[0] - left[0]))
        assert abs(tilt) <= 30.01
        assert pixels(portrait, "skin") > 0
        tilts.append(tilt)
    assert np.std(tilts) > 5


def test_wild_sets_use_celebas_folder_for_wild_images(tmp_path: Path) -> None:
    write_dataset(tmp_path / "wild", 2, SEED, wild=True, workers=1)
    assert len(list((tmp_path / "wild" / "img_celeba").glob("*.jpg"))) == 2
    assert (tmp_path / "wild" / "list_landmarks_celeba.txt").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--count", "0"], "--count must be between"),
        (["--count", "1000000"], "--count must be between"),
        (["--seed", "-1"], "--seed must not be negative"),
        (["--workers", "0"], "--workers must be at least 1"),
    ],
)
def test_bad_numbers_are_errors(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        main(["--output", str(tmp_path / "set"), *arguments])


def test_a_folder_that_holds_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="is not empty and holds no earlier sample set"):
        main(["--output", str(tmp_path), "--count", "2"])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_instead_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set").write_text("")
    with pytest.raises(UserError, match="is a file"):
        main(["--output", str(tmp_path / "set"), "--count", "2"])


def test_the_contact_sheet_is_a_small_image(tmp_path: Path) -> None:
    main(["--contact-sheet", str(tmp_path / "sheet.jpg"), "--seed", "1"])
    assert (tmp_path / "sheet.jpg").stat().st_size < LARGEST_FILE
    assert cv2.imread(str(tmp_path / "sheet.jpg")) is not None
    with pytest.raises(UserError, match="must end in .png"):
        main(["--contact-sheet", str(tmp_path / "sheet.tiff")])


def test_doing_nothing_is_an_error_with_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 2
    assert "--output" in capsys.readouterr().err
