"""What all tasks get to see: square patches that are cut from whole batches at once, and classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import torch
from torch import Tensor

from common.classes import CLASSES, FLIP_CLASSES
from common.config import Pretrain
from training.data.loader import Batch
from training.models.blocks import to_input


@dataclass(frozen=True)
class ClassSet:
    """Classes to predict, by name."""

    names: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]  # class numbers of the shards that each class is made of
    branches: dict[str, tuple[int, ...]]  # class numbers (of this set) that each branch predicts

    def merge(self, masks: Tensor) -> Tensor:
        """Masks of this set's classes, uint8 like the masks of shard classes, integer (...)."""
        table = torch.empty(len(CLASSES), dtype=torch.uint8)
        for number, members in enumerate(self.members):
            table[list(members)] = number
        return table.to(masks.device, non_blocking=True)[masks.int()]


# The journal's setting.
ALL: Final = ClassSet(
    names=CLASSES,
    members=tuple((number,) for number in range(len(CLASSES))),
    branches={
        "whole": (0, 1),
        "upper": (2, 3, 4, 5, 6, 17, 18),
        "middle": (7, 8, 9, 10),
        "lower": (11, 12, 13, 14, 15, 16),
    },
)
# The setting of 2021.
MERGED: Final = ClassSet(
    names=("background", "skin", "eye", "ear", "nose", "mouth", "neck", "hair"),
    members=((0,), (1,), (2, 3, 4, 5, 6), (7, 8, 9), (10,), (11, 12, 13), (14, 15, 16), (17, 18)),
    branches={"whole": (0, 1), "upper": (2, 7), "middle": (3, 4), "lower": (5, 6)},
)
CLASS_SETS: Final = {"all": ALL, "merged": MERGED}  # By the value of ``pretrain.classes``


@dataclass(frozen=True)
class Crops:
    """The samples of a batch, some of them mirrored, with a random patch of each."""

    images: Tensor  # uint8 (B, 3, H, H), whole faces
    masks: Tensor  # uint8 (B, H, H), classes 0..18; empty (0,) if no task reads them
    patches: Tensor  # float32 (B, 3, S, S), the patches as normalised network input
    top: Tensor  # int64 (B,), of the patches' upper left corners in pixels
    left: Tensor  # likewise
    side: int  # of the patches, in pixels
    classes: ClassSet  # the classes of targets

    @cached_property
    def patch_masks(self) -> Tensor:
        """The patches' masks, uint8 (B, side, side), in the classes of targets."""
        masks = crop(self.masks[:, None], self.top[:, None], self.left[:, None], self.side)
        return self.classes.merge(masks[:, 0, 0])


def make_crops(batch: Batch, settings: Pretrain, input_size: int, generator: torch.Generator) -> Crops:
    """Mirror samples at random (CPU generator) and cut a patch from each, on the batch's device."""
    images, size = batch.images, batch.images.shape[-1]
    mirrored = torch.rand(len(images), generator=generator) < settings.flip
    corners, side = random_patches(len(images), size, settings.patch_fraction, generator)
    top, left = corners.to(images.device, non_blocking=True).unbind(1)
    marked, masks = torch.nonzero(mirrored)[:, 0].to(images.device, non_blocking=True), batch.masks
    images = images.index_copy(0, marked, images[marked].flip(-1))
    if masks.numel():  # left and right classes swap
        classes = torch.from_numpy(FLIP_CLASSES.copy()).to(masks.device, non_blocking=True)
        masks = masks.index_copy(0, marked, classes[masks[marked].flip(-1).int()])
    patches = to_input(crop(images, top[:, None], left[:, None], side)[:, 0], input_size)
    return Crops(images, masks, patches, top, left, side, CLASS_SETS[settings.classes])


def crop(images: Tensor, top: Tensor, left: Tensor, side: int) -> Tensor:
    """Cut N squares out of each image of a batch, (B, C, H, W) of any dtype, to (B, N, C, side, side).

    Their upper left corners are int64 (B, N), in pixels as the side.
    """
    steps = torch.arange(side, device=images.device)
    rows = (top[:, :, None] + steps)[:, :, :, None]
    columns = (left[:, :, None] + steps)[:, :, None, :]
    which = torch.arange(len(images), device=images.device)[:, None, None, None]
    return images.permute(0, 2, 3, 1)[which, rows, columns].permute(0, 1, 4, 2, 3)


def random_patches(
    count: int, size: int, fraction: Sequence[float], generator: torch.Generator
) -> tuple[Tensor, int]:
    """Upper left corners, int64 (count, 2), of squares of one random side at any position, and the side.

    All are in pixels, but `fraction`, the least and greatest side as shares of `size`; CPU generator.
    """
    least, greatest = fraction
    share = least + (greatest - least) * torch.rand((), generator=generator).item()
    side = max(1, round(size * share))
    return torch.randint(0, size - side + 1, (count, 2), generator=generator), side
