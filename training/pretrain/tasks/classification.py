"""PCT, the patch classification task: which classes dominate a patch.

Image-level semantics. The target marks the classes with the most pixels in the patch; each branch
predicts its own group of classes. The pixels are counted in the cropped mask, or, where patches are made
of whole grid cells, summed from the counts that the shards store: the mask is not read then.
"""

from typing import Final

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.cell_targets import dominant_classes, merge_cells
from common.classes import NUM_CLASSES
from common.errors import UserError
from common.section import Positive
from training.engine.average_precision import mean_average_precision
from training.models import BRANCHES, Features
from training.pretrain.tasks.base import (
    PretextTask,
    TaskConfig,
    TaskContext,
    TaskMetric,
    Tensors,
    share_correct,
)
from training.pretrain.tasks.class_sets import ALL
from training.pretrain.tasks.panel import CORRECT, FAINT, INK, SIDE, WRONG, Column, Image, canvas, write
from training.pretrain.tasks.patches import Crops

BRANCH_CLASSES: Final = ALL.branches
"""Class numbers that each branch predicts (the journal's setting, 19 classes)."""

LIST_WIDTH: Final = 84
"""Pixels that the list of a branch's classes is wide."""


class ClassificationConfig(TaskConfig):
    """Settings of the classification.

    top_classes: how many of the largest classes count as present (v in the paper).
    """

    top_classes: Positive


class ClassificationTask(PretextTask[ClassificationConfig]):
    """Binary cross-entropy of the dominant classes, branch by branch.

    Targets: ``classes``, float32 (B, K) of 0 and 1. Outputs: by branch, float (B, classes of the branch).
    """

    name = "classification"
    abbreviation = "PCT"
    title = "Patch classification"
    config_class = ClassificationConfig
    features = frozenset(BRANCHES)

    def __init__(self, config: ClassificationConfig, context: TaskContext) -> None:
        super().__init__(config, context)
        self.head = ClassificationHead(context.channels, context.classes.branches)

    def members(self) -> frozenset[str]:
        """The stored counts if patches are made of whole cells, else the mask."""
        return frozenset({"mask.png" if self.context.patch_grid is None else "parts.npy"})

    def targets(self, crops: Crops, generator: torch.Generator) -> dict[str, Tensor]:
        """The dominant classes of the patches; nothing is drawn."""
        classes, grid = self.context.classes, self.context.patch_grid
        if grid is None:
            counts = count_classes(crops.patch_masks, len(classes.names))
        else:
            cells, size = self._coarse_cells(crops.cell_counts, grid), crops.images.shape[-1]
            counts = classes.merge_counts(sum_cells(cells, crops.top, crops.left, crops.side, size))
        return {"classes": dominant_classes(counts, self.config.top_classes).float()}

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Logits by branch."""
        return self.head(features.branches)

    def losses(self, outputs: Tensors, targets: Tensors) -> dict[str, Tensor]:
        """The branches' binary cross-entropies, summed."""
        return {"loss": classification_loss(outputs, targets["classes"], self.context.classes.branches)}

    def metrics(self) -> tuple[TaskMetric, ...]:
        """Mean average precision, and the share of correct decisions at probability 0.5."""
        return (
            TaskMetric("average_precision", "mean average precision", average_precision, in_training=False),
            TaskMetric("accuracy", "accuracy", share_correct("correct")),
        )

    def observe(self, outputs: Tensors, targets: Tensors) -> dict[str, Tensor]:
        """Targets, logits and correct decisions, (B, K) each, classes in the order of their numbers."""
        classes = targets["classes"].cpu()
        logits = torch.empty_like(classes)
        for branch, group in self.context.classes.branches.items():
            logits[:, list(group)] = outputs[branch].detach().float().cpu()
        return {"targets": classes, "logits": logits, "correct": (logits > 0) == classes.bool()}

    def panel(self, crops: Crops, targets: Tensors, outputs: Tensors, rows: int) -> list[Column]:
        """A list of classes per branch, with the target (T) and the prediction (P) of each."""
        columns = []
        for branch, group in self.context.classes.branches.items():
            names = [self.context.classes.names[number] for number in group]
            true = (targets["classes"][:rows, list(group)] > 0).tolist()
            predicted = (outputs[branch][:rows] > 0).tolist()
            cells = [_class_list(names, t, p) for t, p in zip(true, predicted, strict=True)]
            columns.append(Column(f"T  P  {branch}", cells))
        return columns

    def _coarse_cells(self, cells: Tensor, grid: int) -> Tensor:
        try:
            return merge_cells(cells, grid)
        except ValueError as error:
            raise UserError(
                f"pretrain.patch_grid={grid}: {error} as the shards hold; set it to a divisor, or to null"
            ) from error


def count_classes(masks: Tensor, classes: int = NUM_CLASSES) -> Tensor:
    """Pixels per class, int64 (B, K), of integer masks (B, H, W) with values below K, `classes`."""
    pixels = masks.flatten(1).long()
    # A GPU waits for the host in `bincount`, whose result has a length that depends on the values.
    counts = torch.zeros(len(masks), classes, dtype=torch.int64, device=masks.device)
    return counts.scatter_add_(1, pixels, torch.ones_like(pixels))


def sum_cells(cells: Tensor, top: Tensor, left: Tensor, side: int, size: int) -> Tensor:
    """Pixels per class, int64 (B, 19), of patches made of whole equal cells.

    Args:
        cells: integer (B, G, G, 19), counts of faces with `size` pixels a side; G divides `size`.
        top, left: int64 (B,), upper left corners in pixels, multiples of size / G.
        side: of the patches in pixels, a multiple of size / G.
        size: of the faces, in pixels.
    """
    cell = size // cells.shape[1]
    integral = F.pad(cells.long().cumsum(1).cumsum(2), (0, 0, 1, 0, 1, 0))
    upper, lower, first, last = top // cell, (top + side) // cell, left // cell, (left + side) // cell
    which = torch.arange(len(cells), device=cells.device)
    return (
        integral[which, lower, last]
        - integral[which, upper, last]
        - integral[which, lower, first]
        + integral[which, upper, first]
    )


class ClassificationHead(nn.Module):
    """One linear layer per branch on its pooled features: by branch, (B, C, h, w) to logits (B, classes)."""

    def __init__(self, channels: int, classes: dict[str, tuple[int, ...]] = BRANCH_CLASSES) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(channels, len(classes[name])) for name in BRANCHES})

    def forward(self, branches: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return logits by branch."""
        return {name: head(branches[name].mean(dim=(2, 3))) for name, head in self.heads.items()}


def classification_loss(
    logits: Tensors, targets: Tensor, classes: dict[str, tuple[int, ...]] = BRANCH_CLASSES
) -> Tensor:
    """Binary cross-entropy with logits, one mean per branch, summed.

    Args:
        logits: by branch, float (B, classes of the branch).
        targets: float (B, K) of 0 and 1.
        classes: class numbers of each branch.
    """
    terms = [
        F.binary_cross_entropy_with_logits(logits[name].float(), targets[:, list(classes[name])])
        for name in logits
    ]
    return torch.stack(terms).sum()


def average_precision(observed: Tensors) -> float | None:
    """Mean over the classes that are present in some patches and absent in others; None without any."""
    targets = observed["targets"].numpy().astype(np.int8)
    return mean_average_precision(targets, observed["logits"].numpy())


def _class_list(names: list[str], true: list[bool], predicted: list[bool]) -> Image:
    image = canvas(SIDE, LIST_WIDTH)
    for line, (name, target, prediction) in enumerate(zip(names, true, predicted, strict=True)):
        top, correct = 4 + 20 * line, target == prediction
        boxes = ((0, target, CORRECT), (15, prediction, CORRECT if correct else WRONG))
        for left, filled, colour in boxes:
            cv2.rectangle(image, (left, top), (left + 11, top + 11), colour if filled else FAINT, -1)
        if target and not prediction:
            cv2.rectangle(image, (15, top), (26, top + 11), WRONG, 1)
        write(image, name[:10], (32, top + 10), INK if correct else WRONG)
    return image
