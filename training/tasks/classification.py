"""PCT, the patch classification task: which face parts dominate a patch.

Image-level semantics. The label marks the `top` classes with the most pixels in
the patch; each branch predicts its own group of classes.
"""

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contract.classes import NUM_CLASSES
from training.networks import BRANCHES

BRANCH_CLASSES: Final = {
    "whole": (0, 1),
    "upper": (2, 3, 4, 5, 6, 17, 18),
    "middle": (7, 8, 9, 10),
    "lower": (11, 12, 13, 14, 15, 16),
}
"""Class numbers that each branch predicts (the journal's setting, 19 classes)."""


def count_classes(masks: Tensor) -> Tensor:
    """Pixels per class, int64 (B, 19), of integer masks (B, H, W)."""
    batch = len(masks)
    slot = masks.reshape(batch, -1).long() + NUM_CLASSES * torch.arange(batch, device=masks.device)[:, None]
    return torch.bincount(slot.flatten(), minlength=batch * NUM_CLASSES).view(batch, NUM_CLASSES)


def dominant_parts(counts: Tensor, top: int) -> Tensor:
    """Multi-label target: 1 for the `top` classes with the most pixels, 0 for the rest.

    Classes without a pixel are never marked; of equal counts the lower class number wins.
    The rule is that of `contract.parts.dominant_parts`, on tensors of any device.

    Args:
        counts: integer (..., 19), pixels per class, such as sums of stored part counts.
        top: v in the paper.

    Returns:
        float32 (..., 19) of 0 and 1.
    """
    order = counts.argsort(dim=-1, descending=True, stable=True)
    chosen = torch.zeros_like(counts, dtype=torch.float32)
    chosen.scatter_(-1, order[..., :top], 1.0)
    return chosen * (counts > 0)


class ClassificationHead(nn.Module):
    """One linear layer per branch on its pooled features: by branch, (B, C, h, w) to logits (B, classes)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(
            {name: nn.Linear(channels, len(BRANCH_CLASSES[name])) for name in BRANCHES}
        )

    def forward(self, branches: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return logits by branch."""
        return {name: head(branches[name].mean(dim=(2, 3))) for name, head in self.heads.items()}


def classification_loss(logits: dict[str, Tensor], parts: Tensor) -> Tensor:
    """Binary cross-entropy with logits, one mean per branch, summed.

    Args:
        logits: by branch, float (B, classes of the branch).
        parts: float (B, 19) of 0 and 1.
    """
    terms = [
        F.binary_cross_entropy_with_logits(logits[name].float(), parts[:, list(BRANCH_CLASSES[name])])
        for name in logits
    ]
    return torch.stack(terms).sum()
