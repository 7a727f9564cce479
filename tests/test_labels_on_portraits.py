"""The label makers of stage 1 on the painted portraits' exact masks, against one sample at a time."""

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.cell_counts import cell_class_counts
from common.classes import CLASSES, NUM_CLASSES
from common.config import load
from common.errors import UserError
from training.data.loader import Batch
from training.pretrain.model import make_labels, reads_masks, reads_parts
from training.pretrain.tasks.class_sets import ALL, CLASS_SETS, MERGED
from training.pretrain.tasks.classification import count_classes, dominant_classes
from training.pretrain.tasks.patches import random_patches
from training.pretrain.tasks.rotation import choose_tile, turn_tiles

SWAPPED = {"l_brow": "r_brow", "l_eye": "r_eye", "l_ear": "r_ear"}
SWAPPED |= {right: left for left, right in SWAPPED.items()}
# The merged classes of the 2021 paper, by the names of their members.
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
def painted(portraits: Path) -> Batch:
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
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_patch_labels_equal_those_made_one_sample_at_a_time(
    painted: Batch, classes: str, top: int, flip: float
) -> None:
    config = load(
        settings=[
            "network.input_size=48",
            f"pretrain.classes={classes}",
            f"pretrain.top_parts={top}",
            f"pretrain.flip={flip}",
            "pretrain.patch_fraction=[0.4375, 0.6]",
        ]
    )
    labels = make_labels(painted, config, torch.Generator().manual_seed(5))
    draws = torch.Generator().manual_seed(5)
    torch.rand(len(painted.images), generator=draws)
    side = round(256 * (0.4375 + (0.6 - 0.4375) * torch.rand((), generator=draws).item()))
    corners = torch.randint(0, 256 - side + 1, (len(painted.images), 2), generator=draws).tolist()
    assert labels.parts.shape == (len(corners), len(CLASS_SETS[classes].names))
    for sample, (top_edge, left_edge) in enumerate(corners):
        mask = painted.masks[sample].numpy()
        mask = mirrored(mask) if flip else mask
        patch = mask[top_edge : top_edge + side, left_edge : left_edge + side].tolist()
        pixels = Counter(merged(value, classes) for row in patch for value in row)
        largest = sorted(pixels, key=lambda c: (-pixels[c], c))[:top]
        assert labels.parts[sample].nonzero()[:, 0].tolist() == sorted(largest)
        for y in range(48):
            for x in range(48):
                nearest = patch[int((y + 0.5) * side / 48)][int((x + 0.5) * side / 48)]
                assert labels.masks[sample, y, x] == merged(nearest, classes)


def test_merged_classes_are_those_of_2021() -> None:
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


@pytest.mark.parametrize("classes", ["all", "merged"])
def test_merging_counts_and_counting_merged_masks_agree(painted: Batch, classes: str) -> None:
    found = CLASS_SETS[classes]
    counted = count_classes(found.merge(painted.masks), len(found.names))
    assert torch.equal(counted, found.merge_counts(count_classes(painted.masks)))
    assert counted.sum(1).tolist() == [256 * 256] * len(painted.masks)


def stored(painted: Batch, grid: int) -> Batch:
    """The batch with the counts that its shards would hold."""
    parts = np.stack([cell_class_counts(mask.numpy(), grid) for mask in painted.masks])
    return Batch(painted.images, painted.masks, painted.indices, torch.from_numpy(parts.astype(np.int32)))


@pytest.mark.parametrize("classes", ["all", "merged"])
@given(seed=st.integers(0, 2**31), grid=st.sampled_from([1, 2, 4]), flipped=st.sampled_from([0.0, 0.5, 1.0]))
@settings(deadline=None, max_examples=25)
def test_stored_counts_give_the_labels_that_the_cropped_mask_gives(
    painted: Batch, classes: str, seed: int, grid: int, flipped: float
) -> None:
    config = load(
        settings=[
            "network.input_size=32",
            f"pretrain.flip={flipped}",
            f"pretrain.patch_grid={grid}",
            f"pretrain.classes={classes}",
            "pretrain.patch_fraction=[0.2, 1.0]",
        ]
    )
    labels = make_labels(stored(painted, 12), config, torch.Generator().manual_seed(seed))

    draws = torch.Generator().manual_seed(seed)
    turned = torch.rand(len(painted.images), generator=draws) < flipped
    corners, side = random_patches(len(painted.images), 256, grid, config.pretrain.patch_fraction, draws)
    assert side % (256 // grid) == 0
    names = CLASS_SETS[config.pretrain.classes]
    for mask, (top, left), around, got in zip(
        painted.masks.numpy(), corners.tolist(), turned, labels.parts, strict=True
    ):
        patch = (mirrored(mask) if around else mask)[top : top + side, left : left + side]
        counts = names.merge(torch.from_numpy(patch.copy())[None].long())
        expected = dominant_classes(count_classes(counts, len(names.names)), config.pretrain.top_parts)[0]
        assert torch.equal(got, expected)


def test_classification_alone_on_a_grid_reads_no_mask(painted: Batch) -> None:
    alone = "pretrain.tasks={segmentation: 0, classification: 1.0, rotation: 0, angle: 0, agreement: 0}"
    for grid, masks in (("4", False), ("null", True)):
        config = load(settings=[alone, "network.input_size=32", f"pretrain.patch_grid={grid}"])
        assert reads_masks(config.pretrain) is masks
        assert reads_parts(config.pretrain) is not masks
    batch = stored(painted, 12)
    blind = Batch(batch.images, torch.empty(0, dtype=torch.uint8), batch.indices, batch.cell_counts)
    config = load(settings=[alone, "network.input_size=32", "pretrain.patch_grid=4"])
    seen, unseen = (make_labels(one, config, torch.Generator().manual_seed(1)) for one in (batch, blind))
    assert torch.equal(seen.parts, unseen.parts)
    assert torch.equal(seen.patches, unseen.patches)


@pytest.mark.parametrize(("grid", "said"), [("3", "256 pixels is not 3 whole cells"), ("8", "12 x 12 grid")])
def test_a_grid_that_does_not_fit_is_refused(painted: Batch, grid: str, said: str) -> None:
    config = load(settings=["network.input_size=32", f"pretrain.patch_grid={grid}"])
    with pytest.raises(UserError, match=said):
        make_labels(stored(painted, 12), config, torch.Generator())


WHOLE_TILES = [
    "network.input_size=32",
    "pretrain.tasks.angle=0",
    "pretrain.tile_jitter=0",
    "pretrain.tile_fraction=1.0",
    "pretrain.min_foreground=0.0",
]


def test_in_2021_the_chosen_tile_is_always_upside_down(painted: Batch) -> None:
    made, plain = (
        turn_tiles(
            painted.images,
            painted.masks,
            3,
            32,
            load(settings=[*WHOLE_TILES, f"pretrain.tile_turns=[{turns}]"]).pretrain,
            torch.Generator().manual_seed(1),
        )
        for turns in (2, 0)
    )
    assert made.angle.tolist() == [2] * len(painted.images)
    for sample, tile in enumerate(made.tile.tolist()):
        for place in range(9):
            got, upright = (t.tiles[sample, 3 * place : 3 * place + 3] for t in (made, plain))
            expected = upright.flip((1, 2)) if place == tile else upright
            # A resize before or after the turn rounds differently.
            assert (got - expected).abs().max() < 0.1


def test_rotation_alone_needs_masks_for_the_foreground_rule_only(painted: Batch) -> None:
    alone = "pretrain.tasks={segmentation: 0, classification: 0, rotation: 1.0, angle: 1.0, agreement: 0}"
    free = load(settings=[alone, "network.input_size=32", "pretrain.min_foreground=0.0"])
    ruled = load(settings=[alone, "network.input_size=32"])
    assert (reads_masks(free.pretrain), reads_masks(ruled.pretrain)) == (False, True)
    blind = Batch(painted.images, torch.empty(0, dtype=torch.uint8), painted.indices)
    with_masks, without = (
        make_labels(batch, free, torch.Generator().manual_seed(2)).turned for batch in (painted, blind)
    )
    assert torch.equal(with_masks.tiles, without.tiles)
    assert torch.equal(with_masks.tile, without.tile)


@given(st.integers(0, 2**31), st.integers(1, 16), st.integers(0, 2**16 - 1))
@settings(deadline=None, max_examples=100)
def test_the_tile_is_the_first_eligible_draw_or_the_last(seed: int, count: int, bits: int) -> None:
    eligible = torch.tensor([[bool(bits >> place & 1) for place in range(count)]])
    chosen = choose_tile(eligible, torch.Generator().manual_seed(seed)).item()
    draws = torch.randint(0, count, (1, count), generator=torch.Generator().manual_seed(seed))[0].tolist()
    assert chosen == next((draw for draw in draws if eligible[0, draw]), draws[-1])


@given(st.integers(0, 10**6), st.integers(1, 5))
@settings(deadline=None, max_examples=30)
def test_counting_classes_equals_counting_pixels(seed: int, batch: int) -> None:
    masks = np.random.default_rng(seed).integers(0, NUM_CLASSES, (batch, 7, 9)).astype(np.uint8)
    for mask, counted in zip(masks, count_classes(torch.from_numpy(masks)).tolist(), strict=True):
        found = Counter(mask.ravel().tolist())
        assert counted == [found[c] for c in range(NUM_CLASSES)]
