"""The label makers of stage 1 against slow, obvious references on painted masks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common import cell_counts as parts
from common.cell_counts import cell_class_counts, merge_cells
from common.classes import CLASSES, FLIP_CLASSES, NUM_CLASSES
from common.config import Config, load
from training.data.loader import Batch
from training.pretrain.model import PretrainModel, flip, losses, make_labels
from training.pretrain.tasks.adversarial import Discriminator, Fusion, discriminator_loss, fooling_loss
from training.pretrain.tasks.classification import (
    BRANCH_CLASSES,
    classification_loss,
    count_classes,
    dominant_classes,
)
from training.pretrain.tasks.patches import crop, resize_masks
from training.pretrain.tasks.rotation import choose_tile, foreground, normalise, turn_tiles
from training.pretrain.tasks.segmentation import SegmentationHead, segmentation_loss, upsample


@pytest.fixture
def config() -> Config:
    return load(
        settings=["network.width=8", "network.input_size=32", "pretrain.tile_jitter=2", "pretrain.flip=0.0"]
    )


def random_batch(size: int = 60, count: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    coarse = torch.randint(0, NUM_CLASSES, (count, 1, 6, 6), generator=generator).float()
    masks = torch.nn.functional.interpolate(coarse, (size, size), mode="nearest")[:, 0].to(torch.uint8)
    return images, masks


def test_a_crop_holds_the_pixels_of_its_square() -> None:
    images, _ = random_batch()
    top, left = torch.tensor([[0, 7]] * 6), torch.tensor([[3, 40]] * 6)
    squares = crop(images, top, left, 20)
    for sample in range(6):
        for square, (y, x) in enumerate([(0, 3), (7, 40)]):
            assert torch.equal(squares[sample, square], images[sample, :, y : y + 20, x : x + 20])


@given(st.integers(0, 10**6), st.integers(1, NUM_CLASSES))
@settings(deadline=None, max_examples=50)
def test_the_dominant_parts_are_the_largest_classes_that_have_a_pixel(seed: int, top: int) -> None:
    counts = np.random.default_rng(seed).integers(0, 6, NUM_CLASSES)
    largest = sorted(range(NUM_CLASSES), key=lambda c: (-counts[c], c))[:top]
    expected = [1.0 if c in largest and counts[c] > 0 else 0.0 for c in range(NUM_CLASSES)]
    assert dominant_classes(torch.tensor(counts), top).tolist() == expected


@given(st.integers(0, 10**6), st.integers(1, NUM_CLASSES), st.integers(1, 70_000))
@settings(deadline=None, max_examples=50)
def test_the_target_is_that_of_the_stored_counts(seed: int, top: int, most: int) -> None:
    counts = np.random.default_rng(seed).integers(0, most, (3, 3, NUM_CLASSES))
    assert np.array_equal(
        dominant_classes(torch.tensor(counts), top).bool(), parts.dominant_classes(counts, top)
    )


def test_counted_classes_agree_with_stored_part_counts() -> None:
    _, masks = random_batch(size=60)
    for mask, counted in zip(masks, count_classes(masks), strict=True):
        stored = cell_class_counts(mask.numpy(), 12)
        assert merge_cells(stored, 1)[0, 0].tolist() == counted.tolist()
        corner = count_classes(mask[None, :20, 20:40])[0]
        assert merge_cells(stored, 3)[0, 1].tolist() == corner.tolist()


def test_branches_share_out_all_classes_but_none_twice() -> None:
    assert sorted(c for group in BRANCH_CLASSES.values() for c in group) == list(range(NUM_CLASSES))


def test_the_classification_loss_sums_the_branches_means() -> None:
    logits = {name: torch.randn(4, len(group)) for name, group in BRANCH_CLASSES.items()}
    parts = torch.randint(0, 2, (4, NUM_CLASSES)).float()
    expected = 0.0
    for name, group in BRANCH_CLASSES.items():
        target = parts[:, list(group)].numpy()
        chance = 1 / (1 + np.exp(-logits[name].numpy().astype(np.float64)))
        expected += -(target * np.log(chance) + (1 - target) * np.log(1 - chance)).mean()
    assert classification_loss(logits, parts).item() == pytest.approx(expected, rel=1e-4)


def test_a_flip_mirrors_the_picture_and_swaps_left_and_right_classes() -> None:
    images, masks = random_batch()
    flipped, swapped = flip(images, masks, torch.ones(len(images), dtype=torch.bool))
    assert torch.equal(flipped, images.flip(-1))
    names = {"l_brow": "r_brow", "l_eye": "r_eye", "l_ear": "r_ear"}
    names |= {right: left for left, right in names.items()}
    for before, after in zip(masks.flip(-1).flatten().tolist(), swapped.flatten().tolist(), strict=True):
        assert CLASSES[after] == names.get(CLASSES[before], CLASSES[before])
    again = flip(flipped, swapped, torch.ones(len(images), dtype=torch.bool))
    assert torch.equal(again[0], images)
    assert torch.equal(again[1], masks)
    assert np.array_equal(FLIP_CLASSES[FLIP_CLASSES], np.arange(256))


def test_samples_that_are_not_drawn_stay_as_they_are() -> None:
    images, masks = random_batch()
    assert torch.equal(flip(images, masks, torch.zeros(len(images), dtype=torch.bool))[0], images)


@pytest.mark.parametrize("tiles", [2, 3, 4])
def test_turned_tiles_equal_a_slow_reference(config: Config, tiles: int) -> None:
    images, masks = random_batch(size=64)
    made = turn_tiles(images, masks, tiles, 32, config.pretrain, torch.Generator().manual_seed(3))
    draws = torch.Generator().manual_seed(3)
    count, side = tiles * tiles, 64 // tiles
    tile = choose_tile(foreground(masks, tiles, config.pretrain.min_foreground), draws)
    angle = torch.randint(0, 4, (6,), generator=draws)
    cut = round(side * config.pretrain.tile_fraction)
    corner = torch.randint(0, side - cut + 1, (6, count, 2), generator=draws)
    reach = config.pretrain.tile_jitter
    jitter = torch.randint(-reach, reach + 1, (6, count, 3, 1, 1), generator=draws)
    assert torch.equal(made.tile, tile)
    assert torch.equal(made.angle, angle)
    for sample in range(6):
        for place in range(count):
            y = (place // tiles) * 64 // tiles + int(corner[sample, place, 0])
            x = (place % tiles) * 64 // tiles + int(corner[sample, place, 1])
            patch = images[sample : sample + 1, :, y : y + cut, x : x + cut].float()
            patch = (patch + jitter[sample, place]).clamp(0, 255)
            patch = torch.nn.functional.interpolate(
                patch, (32, 32), mode="bilinear", antialias=True, align_corners=False
            )[0]
            values = np.asarray(patch, np.float64)
            deviation = values.std((1, 2), keepdims=True)
            values = (values - values.mean((1, 2), keepdims=True)) / deviation
            if place == tile[sample]:
                values = np.rot90(values, int(angle[sample]), (1, 2))
            got = made.tiles[sample, 3 * place : 3 * place + 3].numpy()
            two_roundings_to_whole_levels = 1.1 / deviation
            assert (np.abs(got - values) < two_roundings_to_whole_levels).all()


def test_a_tile_of_background_is_turned_only_when_there_is_no_other() -> None:
    masks = torch.zeros(40, 60, 60, dtype=torch.uint8)
    masks[:, 20:40, 20:40] = CLASSES.index("nose")
    eligible = foreground(masks, 3, 0.25)
    assert eligible.nonzero()[:, 1].unique().tolist() == [4]
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([choose_tile(eligible, generator) for _ in range(50)])
    # Nine draws with replacement miss the one eligible tile with probability (8/9)^9 = 0.35.
    assert 0.60 < (drawn == 4).float().mean() < 0.70
    none = choose_tile(torch.zeros(2000, 9, dtype=torch.bool), generator)
    assert none.unique().tolist() == list(range(9))


def test_the_foreground_measure_is_the_sum_of_mask_ids() -> None:
    _, masks = random_batch(size=60)
    for mask, eligible in zip(masks, foreground(masks, 3, 5.0), strict=True):
        for place in range(9):
            y, x = 20 * (place // 3), 20 * (place % 3)
            total = int(mask[y : y + 20, x : x + 20].long().sum())
            assert bool(eligible[place]) == (total >= 5.0 * 400)


def test_normalised_tiles_have_no_mean_and_unit_deviation_even_when_flat() -> None:
    made = normalise(torch.rand(5, 3, 8, 8) * 200)
    assert made.mean((2, 3)).abs().max() < 1e-5
    assert (made.std((2, 3), correction=0) - 1).abs().max() < 1e-4
    assert normalise(torch.full((1, 3, 8, 8), 7.0)).abs().max() == 0


def test_masks_are_resized_by_the_nearest_pixel_centre() -> None:
    _, masks = random_batch(size=60)
    resized = resize_masks(masks, 32)
    for target in range(32):
        source = int((target + 0.5) * 60 / 32)
        assert torch.equal(resized[:, target, target], masks[:, source, source].long())


def test_the_segmentation_loss_is_the_smoothed_cross_entropy_of_upsampled_logits() -> None:
    logits, masks = torch.randn(2, NUM_CLASSES, 4, 4), torch.randint(0, NUM_CLASSES, (2, 16, 16))
    log_chance = upsample(logits, 16).log_softmax(1)
    hit = -log_chance.gather(1, masks[:, None]).mean()
    spread = -log_chance.mean()
    expected = 0.9 * hit + 0.1 * spread
    assert segmentation_loss(logits, masks, 0.1).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_segmentation_head_starts_without_attention_and_keeps_the_size() -> None:
    head = SegmentationHead(32)
    assert head(torch.randn(2, 32, 3, 5)).shape == (2, NUM_CLASSES, 3, 5)
    features = torch.randn(2, 8, 3, 5)
    assert torch.equal(head.attend(features), features)


def test_an_upscaled_head_draws_finer_than_the_trunk_sees() -> None:
    torch.manual_seed(0)
    head, backbone = SegmentationHead(16, classes=5, upscale=4).eval(), torch.randn(2, 16, 3, 3)
    fine = head(backbone)
    assert fine.shape == (2, 5, 12, 12)
    assert (fine[:, :, 0, 0] != fine[:, :, 0, 1]).all()


def test_criss_cross_attention_mixes_rows_and_columns_only() -> None:
    attend = SegmentationHead(32).attend
    torch.nn.init.ones_(attend.weight)
    features = torch.randn(1, 8, 4, 4, requires_grad=True)
    attend(features)[0, :, 1, 2].sum().backward()
    assert features.grad is not None
    reached = features.grad[0].abs().sum(0) > 0
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[1, :] = expected[:, 2] = True
    assert torch.equal(reached, expected)


def test_the_discriminator_learns_to_tell_two_clouds_apart_and_the_network_is_not_touched_by_it() -> None:
    torch.manual_seed(0)
    judge = Discriminator(64)
    whole, fused = torch.randn(64, 64) + 1, torch.randn(64, 64, requires_grad=True)
    optimizer = torch.optim.Adam(judge.parameters(), lr=1e-2)
    before = discriminator_loss(judge, fused, whole).item()
    for _ in range(50):
        optimizer.zero_grad()
        discriminator_loss(judge, fused, whole).backward()
        optimizer.step()
    assert discriminator_loss(judge, fused, whole).item() < 0.2 < before
    assert fused.grad is None
    fooling_loss(judge, fused).backward()
    assert fused.grad is not None
    assert fused.grad.abs().sum() > 0


def test_fusion_reads_the_three_local_branches() -> None:
    branches = {name: torch.randn(2, 16, 3, 3) for name in BRANCH_CLASSES}
    assert Fusion(16)(branches).shape == (2, 16)


def test_a_task_of_weight_zero_takes_no_part_in_the_loss(config: Config) -> None:
    only = load(
        settings=[
            "network.width=8",
            "network.input_size=32",
            "pretrain.tasks={segmentation: 0, classification: 0, rotation: 2.0, angle: 0, agreement: 0}",
        ]
    )
    images, masks = random_batch(size=64)
    batch = Batch(images, masks, torch.arange(6))
    labels = make_labels(batch, only, torch.Generator().manual_seed(0))
    model = PretrainModel(only)
    terms = losses(model(labels.patches, labels.turned.tiles), labels, only, Discriminator(64))
    assert list(terms) == ["rotation"]
