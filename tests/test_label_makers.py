"""The label makers of stage 1 against slow, obvious references, on painted masks one sample at a time."""

from collections import Counter

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from common.classes import CLASSES, NUM_CLASSES
from common.config import load
from training.data.loader import Batch
from training.engine.device import keyed_generator
from training.pretrain.model import PretrainModel
from training.pretrain.tasks.adversarial import AdversarialTask
from training.pretrain.tasks.base import TaskConfig, TaskContext
from training.pretrain.tasks.classification import classification_loss
from training.pretrain.tasks.patches import ALL, CLASS_SETS, MERGED
from training.pretrain.tasks.rotation import (
    RotationConfig,
    RotationTask,
    choose_position,
    foreground,
    rotate_patches,
)
from training.pretrain.tasks.segmentation import SegmentationHead, segmentation_loss, upsample

ANGLES = [0, 90, 180, 270]


def random_batch(size: int = 60, count: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    coarse = torch.randint(0, NUM_CLASSES, (count, 1, 6, 6), generator=generator).float()
    masks = torch.nn.functional.interpolate(coarse, (size, size), mode="nearest")[:, 0].to(torch.uint8)
    return images, masks


def test_the_classification_loss_sums_the_branches_means():
    logits = {name: torch.randn(4, len(group)) for name, group in ALL.branches.items()}
    present = torch.randint(0, 2, (4, NUM_CLASSES)).float()
    expected = 0.0
    for name, group in ALL.branches.items():
        target = present[:, list(group)].numpy()
        chance = 1 / (1 + np.exp(-logits[name].numpy().astype(np.float64)))
        expected += -(target * np.log(chance) + (1 - target) * np.log(1 - chance)).mean()
    assert classification_loss(logits, present, ALL.branches).item() == pytest.approx(expected, rel=1e-4)


def test_rotated_patches_equal_a_slow_reference():
    images, masks = random_batch(size=64)
    made = rotate_patches(images, masks, ANGLES, 32, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    side = round(64 // 3 * 0.88)
    position = choose_position(foreground(masks), generator)
    angle = torch.randint(0, 4, (6,), generator=generator)
    corner = torch.randint(0, 64 // 3 - side + 1, (6, 9, 2), generator=generator)
    jitter = torch.randint(-2, 3, (6, 9, 3, 1, 1), generator=generator)
    assert torch.equal(made["position"], position) and torch.equal(made["angle"], angle)
    for sample, number in np.ndindex(6, 9):
        y = number // 3 * 64 // 3 + int(corner[sample, number, 0])
        x = number % 3 * 64 // 3 + int(corner[sample, number, 1])
        patch = images[sample : sample + 1, :, y : y + side, x : x + side].float()
        patch = (patch + jitter[sample, number]).clamp(0, 255)
        patch = F.interpolate(patch, (32, 32), mode="bilinear", antialias=True, align_corners=False)
        values = np.asarray(patch[0], np.float64)
        deviation = values.std((1, 2), keepdims=True)
        values = (values - values.mean((1, 2), keepdims=True)) / deviation
        if number == position[sample]:
            values = np.rot90(values, int(angle[sample]), (1, 2))
        got = made["patches"][sample, 3 * number : 3 * number + 3].numpy()
        two_roundings_to_whole_levels = 1.1 / deviation
        assert (np.abs(got - values) < two_roundings_to_whole_levels).all()
    flat = rotate_patches(torch.full_like(images, 7), masks, ANGLES, 32, generator)["patches"]
    assert flat.abs().max() == 0


def test_the_foreground_measure_is_the_sum_of_mask_ids():
    _, masks = random_batch(size=60)
    masks //= 12  # few patches reach a quarter of their pixel count
    for mask, eligible in zip(masks, foreground(masks), strict=True):
        for number in range(9):
            y, x = 20 * (number // 3), 20 * (number % 3)
            total = int(mask[y : y + 20, x : x + 20].long().sum())
            assert bool(eligible[number]) == (total >= 0.25 * 400)


def test_the_segmentation_loss_is_the_smoothed_cross_entropy_of_upsampled_logits():
    logits, masks = torch.randn(2, NUM_CLASSES, 4, 4), torch.randint(0, NUM_CLASSES, (2, 16, 16))
    log_chance = upsample(logits, 16).log_softmax(1)
    hit = -log_chance.gather(1, masks[:, None]).mean()
    spread = -log_chance.mean()
    expected = 0.9 * hit + 0.1 * spread
    assert segmentation_loss(logits, masks).item() == pytest.approx(expected.item(), rel=1e-5)


def test_criss_cross_attention_mixes_rows_and_columns_only():
    attend = SegmentationHead(32).attend
    torch.nn.init.ones_(attend.weight)
    features = torch.randn(1, 8, 4, 4, requires_grad=True)
    attend(features)[0, :, 1, 2].sum().backward()
    reached = features.grad[0].abs().sum(0) > 0
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[1, :] = expected[:, 2] = True
    assert torch.equal(reached, expected)


def test_the_position_is_not_asked_for_where_nothing_is_rotated_unless_as_published():
    for published in (True, False):
        config = RotationConfig(weight=1.0, angles=ANGLES, position_of_unrotated=published)
        task = RotationTask(config, TaskContext(8, 32, False, ALL))
        logits = torch.randn(4, 9, requires_grad=True)
        targets = {"position": torch.arange(4), "angle": torch.tensor([0, 1, 0, 3])}
        task.losses({"position": logits}, targets)["position_loss"].backward()
        learns = (logits.grad.abs().sum(1) > 0).tolist()
        assert learns == [published, True, published, True]
        targets["angle"] = torch.zeros(4, dtype=torch.int64)
        loss = task.losses({"position": logits}, targets)["position_loss"]
        assert bool(loss > 0) is published  # not NaN either


def test_the_discriminator_is_apart_learns_to_tell_two_clouds_apart_and_does_not_touch_the_network():
    torch.manual_seed(0)
    task = AdversarialTask(TaskConfig(weight=1.0), TaskContext(64, 32, False, ALL))
    discriminator = task.adversary()
    outputs = {"whole": torch.randn(64, 64) + 1, "local": torch.randn(64, 64, requires_grad=True)}
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=1e-2)
    before = task.adversary_loss(discriminator, outputs).item()
    for _ in range(50):
        optimizer.zero_grad()
        task.adversary_loss(discriminator, outputs).backward()
        optimizer.step()
    assert task.adversary_loss(discriminator, outputs).item() < 0.2 < before
    assert outputs["local"].grad is None
    task.fooling_losses(discriminator, outputs)["loss"].backward()
    assert outputs["local"].grad.abs().sum() > 0
    assert not {id(each) for each in task.parameters()} & {id(each) for each in discriminator.parameters()}


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
    images, masks = (torch.from_numpy(np.stack(each)) for each in (images, masks))
    return Batch(images, masks, torch.arange(len(images)))


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
            *("network.input_size=48", "network.width=8", "pretrain.patch_fraction=[0.4375, 0.6]"),
            *(f"pretrain.classes={classes}", f"pretrain.flip={flip}"),
            f"pretrain.tasks.classification.top_classes={top}",
        ]
    )
    targets = PretrainModel(config.network, config.pretrain).prepare(painted, 5, 0).targets
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


def test_merged_classes_are_those_of_2021_and_branches_share_out_all_classes_once():
    assert list(MERGED.names) == list(MERGED_NAMES)
    assert [[CLASSES[m] for m in members] for members in MERGED.members] == list(MERGED_NAMES.values())
    found = {name: " ".join(MERGED.names[c] for c in group) for name, group in MERGED.branches.items()}
    assert list(found) == ["whole", "upper", "middle", "lower"]
    assert list(found.values()) == ["background skin", "eye hair", "ear nose", "mouth neck"]
    assert sorted(c for group in ALL.branches.values() for c in group) == list(range(NUM_CLASSES))


@given(st.integers(0, 2**31), st.integers(1, 16), st.integers(0, 2**16 - 1))
@settings(max_examples=100)
def test_the_position_is_the_first_eligible_draw_or_the_last(seed, count, bits):
    eligible = torch.tensor([[bool(bits >> number & 1) for number in range(count)]])
    chosen = choose_position(eligible, torch.Generator().manual_seed(seed)).item()
    draws = torch.randint(0, count, (1, count), generator=torch.Generator().manual_seed(seed))[0].tolist()
    assert chosen == next((draw for draw in draws if eligible[0, draw]), draws[-1])
