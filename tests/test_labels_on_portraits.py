"""The label makers of stage 1 on the painted portraits' exact masks, against one sample at a time."""

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.classes import CLASSES, NUM_CLASSES
from contract.config import load
from contract.parts import cell_edges, count_parts
from training.stream import Batch
from training.tasks.classes import ALL, CLASS_SETS, MERGED
from training.tasks.classification import count_classes, flip_counts, sum_cells
from training.tasks.joint import make_labels, reads_masks
from training.tasks.rotation import choose_tile, turn_tiles

SWAPPED = {"l_brow": "r_brow", "l_eye": "r_eye", "l_ear": "r_ear"}
SWAPPED |= {right: left for left, right in SWAPPED.items()}
# The merged classes as METHOD.md names them, by the names of their members.
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


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_counts_of_patches_made_of_cells_are_sums_of_stored_counts(
    painted: Batch, data: st.DataObject
) -> None:
    grid = data.draw(st.sampled_from([2, 4, 8, 12]))
    first, last = sorted(data.draw(st.lists(st.integers(0, grid), min_size=2, max_size=2, unique=True)))
    edges = cell_edges(256, grid)
    left, side = int(edges[first]), int(edges[last] - edges[first])
    tops = [int(top) for top in edges if top + side in edges]
    top = data.draw(st.sampled_from(tops or [0]))
    parts = torch.from_numpy(np.stack([count_parts(mask.numpy(), grid) for mask in painted.masks]))
    corner = torch.full((len(parts),), top), torch.full((len(parts),), left)
    counts, whole = sum_cells(parts, *corner, side, 256)
    if tops:
        assert whole.all()
        patches = painted.masks[:, top : top + side, left : left + side]
        assert torch.equal(counts, count_classes(patches))
        flipped = torch.from_numpy(np.stack([mirrored(patch.numpy()) for patch in patches[:2, ::8]]))
        assert torch.equal(flip_counts(count_classes(patches[:2, ::8])), count_classes(flipped))


def test_a_patch_off_the_grid_is_told_apart(painted: Batch) -> None:
    parts = torch.from_numpy(count_parts(painted.masks[0].numpy(), 12))[None].expand(4, -1, -1, -1)
    top, left = torch.tensor([0, 1, 64, 192]), torch.tensor([64, 64, 63, 192])
    assert sum_cells(parts, top, left, 64, 256)[1].tolist() == [True, False, False, True]


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
