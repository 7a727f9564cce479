"""PCT, the patch classification task: which face parts dominate a patch.

Image-level semantics. The label marks the `top` classes with the most pixels in
the patch; each branch predicts its own group of classes. The pixels are counted in the cropped mask,
or, where patches are made of whole grid cells, summed from the counts that the shards store: the
mask is not read then.
"""

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.classes import FLIP_CLASSES, NUM_CLASSES
from common.errors import UserError
from training.models import BRANCHES
from training.pretrain.tasks.class_sets import ALL

BRANCH_CLASSES: Final = ALL.branches
"""Class numbers that each branch predicts (the journal's setting, 19 classes)."""


def count_classes(masks: Tensor, classes: int = NUM_CLASSES) -> Tensor:
    """Pixels per class, int64 (B, K), of integer masks (B, H, W) with values below K, `classes`."""
    batch = len(masks)
    slot = masks.reshape(batch, -1).long() + classes * torch.arange(batch, device=masks.device)[:, None]
    return torch.bincount(slot.flatten(), minlength=batch * classes).view(batch, classes)


def merge_cells(parts: Tensor, grid: int) -> Tensor:
    """Stored counts, integer (B, G, G, 19), as exact sums on a coarser grid: int64 (B, grid, grid, 19).

    Raises:
        UserError: the stored grid is no multiple of it.
    """
    batch, stored = parts.shape[:2]
    if stored % grid:
        raise UserError(
            f"patches on a grid of {grid} are not made of whole cells of the {stored} x {stored} grid "
            "that the shards hold; set pretrain.patch_grid to a divisor of it, or to null"
        )
    step = stored // grid
    return parts.long().view(batch, grid, step, grid, step, -1).sum(dim=(2, 4))


def flip_cells(cells: Tensor, drawn: Tensor) -> Tensor:
    """Counts on equal cells, integer (B, G, G, 19), of the samples mirrored that bool (B,) `drawn` marks.

    Columns turn round, and left and right classes change places.
    """
    order = torch.from_numpy(FLIP_CLASSES[:NUM_CLASSES].astype("int64")).to(cells.device)
    return torch.where(drawn.to(cells.device)[:, None, None, None], cells.flip(2)[..., order], cells)


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


def dominant_classes(counts: Tensor, top: int) -> Tensor:
    """Multi-label target: 1 for the `top` classes with the most pixels, 0 for the rest.

    Classes without a pixel are never marked; of equal counts the lower class number wins.
    The rule is that of `common.cell_counts.dominant_classes`, on tensors of any device.

    Args:
        counts: integer (..., K), pixels per class, such as sums of stored part counts.
        top: v in the paper.

    Returns:
        float32 (..., K) of 0 and 1.
    """
    order = counts.argsort(dim=-1, descending=True, stable=True)
    chosen = torch.zeros_like(counts, dtype=torch.float32)
    chosen.scatter_(-1, order[..., :top], 1.0)
    return chosen * (counts > 0)


class ClassificationHead(nn.Module):
    """One linear layer per branch on its pooled features: by branch, (B, C, h, w) to logits (B, classes)."""

    def __init__(self, channels: int, classes: dict[str, tuple[int, ...]] = BRANCH_CLASSES) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(channels, len(classes[name])) for name in BRANCHES})

    def forward(self, branches: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return logits by branch."""
        return {name: head(branches[name].mean(dim=(2, 3))) for name, head in self.heads.items()}


def classification_loss(
    logits: dict[str, Tensor], parts: Tensor, classes: dict[str, tuple[int, ...]] = BRANCH_CLASSES
) -> Tensor:
    """Binary cross-entropy with logits, one mean per branch, summed.

    Args:
        logits: by branch, float (B, classes of the branch).
        parts: float (B, K) of 0 and 1.
        classes: class numbers of each branch.
    """
    terms = [
        F.binary_cross_entropy_with_logits(logits[name].float(), parts[:, list(classes[name])])
        for name in logits
    ]
    return torch.stack(terms).sum()
