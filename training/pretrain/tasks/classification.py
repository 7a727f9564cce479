"""PCT, the patch classification task: which classes dominate a patch.

Image-level semantics. The target marks the classes with the most pixels in the patch; each branch
predicts its own group of classes. The pixels are counted in the cropped mask, or, where patches are made
of whole grid cells, summed from the counts that the shards store: the mask is not read then.

The dense variant, not of the papers, asks each cell of a branch's features for the share of its area that
each class covers, so small classes that are not dominant teach too.
"""

from typing import Final

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.cell_counts import dominant_classes, merge_cells
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
from training.pretrain.tasks.patches import Crops, resize_masks

BRANCH_CLASSES: Final = ALL.branches
"""Class numbers that each branch predicts (the journal's setting, 19 classes)."""

LIST_WIDTH: Final = 84
"""Pixels that the list of a branch's classes is wide."""


class ClassificationConfig(TaskConfig):
    """Settings of the classification.

    top_classes: how many of the largest classes count as present (v in the paper). dense: learn the classes'
    shares of the area of every cell instead, from the mask even with ``pretrain.patch_grid``; `top_classes`
    only matters to the average precision then.
    """

    top_classes: Positive
    dense: bool


class ClassificationTask(PretextTask[ClassificationConfig]):
    """Binary cross-entropy of the dominant classes, branch by branch.

    Targets: ``classes``, float32 (B, K) of 0 and 1. Outputs: by branch, float (B, classes of the branch).
    If dense, ``masks`` too, int64 (B, S, S), and the outputs are (B, classes of the branch, h, w).
    """

    name = "classification"
    abbreviation = "PCT"
    title = "Patch classification"
    config_class = ClassificationConfig
    features = frozenset(BRANCHES)

    def __init__(self, config: ClassificationConfig, context: TaskContext) -> None:
        super().__init__(config, context)
        self.head = ClassificationHead(context.channels, context.classes.branches, config.dense)

    def members(self) -> frozenset[str]:
        """The stored counts if patches are made of whole cells and nothing is dense, else the mask."""
        return frozenset({"mask.png" if self.config.dense or not self.context.patch_grid else "parts.npy"})

    def targets(self, crops: Crops, generator: torch.Generator) -> dict[str, Tensor]:
        """The dominant classes of the patches; nothing is drawn."""
        classes, grid = self.context.classes, self.context.patch_grid
        if grid is None or self.config.dense:
            counts = count_classes(crops.patch_masks, len(classes.names))
        else:
            cells, size = self._coarse_cells(crops.cell_counts, grid), crops.images.shape[-1]
            counts = classes.merge_counts(sum_cells(cells, crops.top, crops.left, crops.side, size))
        dominant = {"classes": dominant_classes(counts, self.config.top_classes).float()}
        if not self.config.dense:
            return dominant
        return {**dominant, "masks": resize_masks(crops.patch_masks, self.context.input_size)}

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Logits by branch."""
        return self.head(features.branches)

    def losses(self, outputs: Tensors, targets: Tensors) -> dict[str, Tensor]:
        """The branches' binary cross-entropies, summed."""
        target = self._shares(outputs, targets) if self.config.dense else targets["classes"]
        return {"loss": classification_loss(outputs, target, self.context.classes.branches)}

    def metrics(self) -> tuple[TaskMetric, ...]:
        """Mean average precision, and the share of correct decisions at probability 0.5.

        If dense, the classes' mean predicted shares are ranked, and their error replaces the decisions,
        since a small class has no probability of 0.5 anywhere.
        """
        ranked = TaskMetric(
            "average_precision", "mean average precision", average_precision, in_training=False
        )
        if self.config.dense:
            error = TaskMetric(
                "share_error", "error of area shares", share_correct("error"), higher_is_better=False
            )
            return ranked, error
        return ranked, TaskMetric("accuracy", "accuracy", share_correct("correct"))

    def observe(self, outputs: Tensors, targets: Tensors) -> dict[str, Tensor]:
        """Targets, scores and correct decisions, (B, K) each, classes in the order of their numbers.

        If dense, instead of decisions ``error``, float (B,), the mean absolute error of classes and cells.
        """
        predicted = self._joined(outputs)
        classes = targets["classes"].cpu()
        if self.config.dense:
            error = (predicted - self._shares(outputs, targets)).abs().mean((1, 2, 3))
            return {"targets": classes, "scores": predicted.mean((2, 3)).cpu(), "error": error.cpu()}
        scores = predicted.cpu()
        return {"targets": classes, "scores": scores, "correct": (scores > 0) == classes.bool()}

    def panel(self, crops: Crops, targets: Tensors, outputs: Tensors, rows: int) -> list[Column]:
        """A list of classes per branch, with the target (T) and the prediction (P) of each.

        If dense, these are percentages of the patch's area.
        """
        columns = []
        if self.config.dense:
            true_shares = self._shares(outputs, targets)[:rows].mean((2, 3)).cpu()
            predicted_shares = self._joined(outputs)[:rows].mean((2, 3)).cpu()
        for branch, group in self.context.classes.branches.items():
            names = [self.context.classes.names[number] for number in group]
            if self.config.dense:
                shares = zip(true_shares[:, group].tolist(), predicted_shares[:, group].tolist(), strict=True)
                columns.append(Column(f" T%  P%  {branch}", [_share_list(names, t, p) for t, p in shares]))
                continue
            true = (targets["classes"][:rows, list(group)] > 0).tolist()
            predicted = (outputs[branch][:rows] > 0).tolist()
            cells = [_class_list(names, t, p) for t, p in zip(true, predicted, strict=True)]
            columns.append(Column(f"T  P  {branch}", cells))
        return columns

    def _joined(self, outputs: Tensors) -> Tensor:
        """Of all branches, in the order of class numbers: logits (B, K), or shares (B, K, h, w) if dense."""
        order = torch.tensor([number for group in self.context.classes.branches.values() for number in group])
        joined = torch.cat([outputs[name].detach().float() for name in self.context.classes.branches], dim=1)
        joined = joined[:, order.argsort().to(joined.device)]
        return joined.sigmoid() if self.config.dense else joined

    def _shares(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """The targets of every cell, float (B, K, h, w); the branches' features have one size."""
        cells = outputs[BRANCHES[0]].shape[2:]
        return area_shares(targets["masks"], len(self.context.classes.names), (cells[0], cells[1]))

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


def area_shares(masks: Tensor, classes: int, cells: tuple[int, int]) -> Tensor:
    """The share of each cell's pixels that each class has, float32 (B, K, h, w).

    Args:
        masks: integer (B, H, W), values below K.
        classes: K.
        cells: h and w; where they do not divide H and W, neighbouring cells share pixels.
    """
    numbers = torch.arange(classes, device=masks.device)[:, None, None]
    return F.adaptive_avg_pool2d((masks[:, None] == numbers).float(), cells)


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
    """One linear layer per branch on its pooled features: by branch, (B, C, h, w) to logits (B, classes).

    If `dense`, on each cell's features, to (B, classes, h, w).
    """

    def __init__(
        self, channels: int, classes: dict[str, tuple[int, ...]] = BRANCH_CLASSES, dense: bool = False
    ) -> None:
        super().__init__()
        self.dense = dense
        self.heads = nn.ModuleDict({name: nn.Linear(channels, len(classes[name])) for name in BRANCHES})

    def forward(self, branches: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return logits by branch."""
        if self.dense:
            return {
                name: head(branches[name].movedim(1, -1)).movedim(-1, 1) for name, head in self.heads.items()
            }
        return {name: head(branches[name].mean(dim=(2, 3))) for name, head in self.heads.items()}


def classification_loss(
    logits: Tensors, targets: Tensor, classes: dict[str, tuple[int, ...]] = BRANCH_CLASSES
) -> Tensor:
    """Binary cross-entropy with logits, one mean per branch, summed.

    Args:
        logits: by branch, float (B, classes of the branch, ...).
        targets: float (B, K, ...) from 0 to 1.
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
    return mean_average_precision(targets, observed["scores"].numpy())


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


def _share_list(names: list[str], true: list[float], predicted: list[float]) -> Image:
    image = canvas(SIDE, LIST_WIDTH)
    for line, (name, target, prediction) in enumerate(zip(names, true, predicted, strict=True)):
        write(image, f"{100 * target:3.0f} {100 * prediction:3.0f} {name[:7]}", (0, 14 + 20 * line), INK)
    return image
