"""PCT, the patch classification task: which face parts dominate a patch.

Image-level semantics. The label marks the `top` classes with the most pixels in
the patch; each branch predicts its own group of classes.
"""

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contract.classes import FLIP_CLASSES, NUM_CLASSES
from contract.parts import cell_edges
from training.networks import BRANCHES
from training.tasks.classes import ALL

BRANCH_CLASSES: Final = ALL.branches
"""Class numbers that each branch predicts (the journal's setting, 19 classes)."""


def count_classes(masks: Tensor, classes: int = NUM_CLASSES) -> Tensor:
    """Pixels per class, int64 (B, K), of integer masks (B, H, W) with values below K, `classes`."""
    batch = len(masks)
    slot = masks.reshape(batch, -1).long() + classes * torch.arange(batch, device=masks.device)[:, None]
    return torch.bincount(slot.flatten(), minlength=batch * classes).view(batch, classes)


def sum_cells(parts: Tensor, top: Tensor, left: Tensor, side: int, size: int) -> tuple[Tensor, Tensor]:
    """Pixels per class of patches from stored part counts, where the patch is made of grid cells.

    Args:
        parts: integer (B, G, G, 19), the shards' counts of faces with `size` pixels a side.
        top, left: int64 (B,), upper left corners in pixels.
        side: of the patches, in pixels.
        size: of the faces, in pixels.

    Returns:
        int64 (B, 19) counts, and bool (B,): whether the patch's four borders are cell borders. Where
        they are not, the counts mean nothing and the cropped mask has to be counted.
    """
    batch, grid = parts.shape[:2]
    edges = torch.from_numpy(cell_edges(size, grid)).to(parts.device)
    integral = F.pad(parts.long().cumsum(1).cumsum(2), (0, 0, 1, 0, 1, 0))
    borders = torch.stack((top, top + side, left, left + side), dim=1)
    cells = torch.searchsorted(edges, borders).clamp(max=grid)
    upper, lower, first, last = cells.unbind(1)
    which = torch.arange(batch, device=parts.device)
    counts = (
        integral[which, lower, last]
        - integral[which, upper, last]
        - integral[which, lower, first]
        + integral[which, upper, first]
    )
    return counts, (edges[cells] == borders).all(dim=1)


def flip_counts(counts: Tensor) -> Tensor:
    """Pixels per class, integer (..., 19), of the mirrored patch: left and right classes change places."""
    return counts[..., torch.from_numpy(FLIP_CLASSES[:NUM_CLASSES].astype("int64")).to(counts.device)]


def dominant_parts(counts: Tensor, top: int) -> Tensor:
    """Multi-label target: 1 for the `top` classes with the most pixels, 0 for the rest.

    Classes without a pixel are never marked; of equal counts the lower class number wins.

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
