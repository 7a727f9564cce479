"""The label makers of stage 1 on the painted portraits' exact masks, against one sample at a time."""

from collections import Counter

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.classes import CLASSES
from common.config import Config, load
from training.data.loader import Batch
from training.engine.device import keyed_generator
from training.pretrain.model import Example, PretrainModel
from training.pretrain.tasks.patches import ALL, CLASS_SETS, MERGED
from training.pretrain.tasks.rotation import choose_position, rotate_patches

SWAPPED = {"l_brow": "r_brow", "l_eye": "r_eye", "l_ear": "r_ear"}
SWAPPED |= {right: left for left, right in SWAPPED.items()}
# The merged classes of 2021 by the names of their members.
MERGED_NAMES = {
    "background": ["background"],
    "skin": ["skin"],
    "eye": ["l_brow", "r_brow", "l_eye", "r_eye", "eye_g"],
    "ear": ["l_ear", "r_ear", "ear_r"],
    "nose": ["nose"],
    "mouth": ["mouth", "u_lip", "l_lip"],
    "neck": ["neck", "neck_l", "cloth"],
    "hair": ["hair", "hat"],
}


def prepare(config: Config, batch: Batch, step: int = 0) -> Example:
    return PretrainModel(config.network, config.pretrain).prepare(batch, step, 0)


@pytest.fixture(scope="session")
def painted(portraits):
    """Twelve portraits at 256 pixels with the masks that they were painted from."""
    images, masks = [], []
    for path in sorted((portraits / "masks").glob("*.png"))[:12]:
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        picture = next(portraits.glob(f"*/{path.stem}.jpg"))
        image = cv2.cvtColor(cv2.imread(str(picture)), cv2.COLOR_BGR2RGB)
        images.append(cv2.resize(image, (256, 256)).transpose(2, 0, 1))
        masks.append(cv2.resize(mask, (256, 256), interpolation=cv2.INTER_NEAREST))
    assert len({int(c) for mask in masks for c in np.unique(mask)}) > 12
    return Batch(
        torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(masks)), torch.arange(len(images))
    )


def mirrored(mask: np.ndarray) -> np.ndarray:
    """One mask, pixel by pixel."""
    out = np.empty_like(mask)
    for y, row in enumerate(mask.tolist()):
        for x, value in enumerate(reversed(row)):
            out[y, x] = CLASSES.index(SWAPPED.get(CLASSES[value], CLASSES[value]))
    return out


def merged(value: int, classes: str) -> int:
    if classes == "all":
        return value
    return next(i for i, names in enumerate(MERGED_NAMES.values()) if CLASSES[value] in names)


@pytest.mark.parametrize(("classes", "top"), [("all", 9), ("merged", 4)])
@pytest.mark.parametrize("flip", [0.0, 0.5, 1.0])
def test_patch_labels_equal_those_made_one_sample_at_a_time(painted, classes, top, flip):
    config = load(
        settings=[
            "network.input_size=48",
            "network.width=8",
            f"pretrain.classes={classes}",
            f"pretrain.tasks.classification.top_classes={top}",
            f"pretrain.flip={flip}",
            "pretrain.patch_fraction=[0.4375, 0.6]",
        ]
    )
    targets = prepare(config, painted, step=5).targets
    masks, present = targets["segmentation"]["masks"], targets["classification"]["classes"]
    generator = keyed_generator(config.pretrain.seed, 5, 0, "crops")
    flips = torch.rand(len(painted.images), generator=generator) < flip
    side = round(256 * (0.4375 + (0.6 - 0.4375) * torch.rand((), generator=generator).item()))
    corners = torch.randint(0, 256 - side + 1, (len(painted.images), 2), generator=generator).tolist()
    assert present.shape == (len(corners), len(CLASS_SETS[classes].names))
    for sample, (top_edge, left_edge) in enumerate(corners):
        mask = painted.masks[sample].numpy()
        mask = mirrored(mask) if flips[sample] else mask
        patch = mask[top_edge : top_edge + side, left_edge : left_edge + side].tolist()
        pixels = Counter(merged(value, classes) for row in patch for value in row)
        largest = sorted(pixels, key=lambda c: (-pixels[c], c))[:top]
        assert present[sample].nonzero()[:, 0].tolist() == sorted(largest)
        for y in range(48):
            for x in range(48):
                nearest = patch[int((y + 0.5) * side / 48)][int((x + 0.5) * side / 48)]
                assert masks[sample, y, x] == merged(nearest, classes)


def test_merged_classes_are_those_of_2021():
    assert list(MERGED.names) == list(MERGED_NAMES)
    assert [[CLASSES[m] for m in members] for members in MERGED.members] == list(MERGED_NAMES.values())
    by_name = {name: [MERGED.names[c] for c in group] for name, group in MERGED.branches.items()}
    assert by_name == {
        "whole": ["background", "skin"],
        "upper": ["eye", "hair"],
        "middle": ["ear", "nose"],
        "lower": ["mouth", "neck"],
    }
    assert ALL.branches["upper"] == (2, 3, 4, 5, 6, 17, 18)


def test_in_2021_the_chosen_patch_is_always_upside_down(painted):
    made, upright = (
        rotate_patches(painted.images, painted.masks, [angle], 32, torch.Generator().manual_seed(1))
        for angle in (180, 0)
    )
    assert made["angle"].tolist() == [2] * len(painted.images)
    for sample, position in enumerate(made["position"].tolist()):
        for number in range(9):
            got, plain = (m["patches"][sample, 3 * number : 3 * number + 3] for m in (made, upright))
            expected = plain.flip((1, 2)) if number == position else plain
            # A resize before or after the rotation rounds differently.
            assert (got - expected).abs().max() < 0.1


@given(st.integers(0, 2**31), st.integers(1, 16), st.integers(0, 2**16 - 1))
@settings(max_examples=100)
def test_the_position_is_the_first_eligible_draw_or_the_last(seed, count, bits):
    eligible = torch.tensor([[bool(bits >> number & 1) for number in range(count)]])
    chosen = choose_position(eligible, torch.Generator().manual_seed(seed)).item()
    draws = torch.randint(0, count, (1, count), generator=torch.Generator().manual_seed(seed))[0].tolist()
    assert chosen == next((draw for draw in draws if eligible[0, draw]), draws[-1])
