"""Which classes stage 1 predicts: the 19 of the shards, or the 8 that the 2021 paper merged them to."""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from common.classes import CLASSES


@dataclass(frozen=True)
class ClassSet:
    """Classes to predict.

    Attributes:
        names: one per class.
        members: class numbers of the shards that each class is made of.
        branches: class numbers (of this set) that each branch predicts.
    """

    names: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]
    branches: dict[str, tuple[int, ...]]

    def merge(self, masks: Tensor) -> Tensor:
        """Masks of this set's classes, uint8 like the masks of shard classes, integer (...)."""
        table = torch.empty(len(CLASSES), dtype=torch.uint8)
        for number, members in enumerate(self.members):
            table[list(members)] = number
        return table.to(masks.device, non_blocking=True)[masks.int()]


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
"""The journal's setting."""

MERGED: Final = ClassSet(
    names=("background", "skin", "eye", "ear", "nose", "mouth", "neck", "hair"),
    members=((0,), (1,), (2, 3, 4, 5, 6), (7, 8, 9), (10,), (11, 12, 13), (14, 15, 16), (17, 18)),
    branches={"whole": (0, 1), "upper": (2, 7), "middle": (3, 4), "lower": (5, 6)},
)
"""The setting of 2021."""

CLASS_SETS: Final = {"all": ALL, "merged": MERGED}
"""By the value of ``pretrain.classes``."""
