"""What is learnt from faces that a fit left out: folds, probabilities, thresholds without other labels."""

from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from training.engine.optim import minimise
from training.models.classifier import Classifier

EVERY_FOLD: Final = 2000  # Up to so many labelled faces every fold is left out in turn, beyond only the first
MIN_SLOPE: Final = 0.1  # Keeps the order of faces where predictions of those left out say nothing
FROM_LABELS: Final = "labelled faces"  # `Classifier.thresholds_from` of thresholds that need no other labels


def draw_folds(count: int) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """Random folds of `count` faces, ascending positions, the same in every call, and those to leave out.

    They are ten for up to 500 faces, and five for more.
    """
    number = min(count, 10 if count <= 500 else 5)
    order = np.random.default_rng(0).permutation(count)
    folds = [np.sort(order[fold::number]) for fold in range(number)]
    return folds, folds if count <= EVERY_FOLD else folds[:1]


def use_label_thresholds(classifier: Classifier, labels: NDArray[np.int8]) -> None:
    """Call an attribute present where it is likelier than among the labelled faces.

    With calibrated probabilities this threshold has the best balanced accuracy. Where all labels are alike,
    nothing is known of what is likelier, and the threshold is one half, to which all shares are shrunken.
    Labels are int8 (N, A), 0 or 1, -1 where unknown.
    """
    positives, count = (labels == 1).sum(0), (labels >= 0).sum(0)
    mixed = (positives > 0) & (positives < count)
    cuts = np.where(mixed, (positives + 0.5) / (count + 1), 0.5)
    classifier.thresholds = dict(zip(classifier.attributes, cuts.tolist(), strict=True))
    classifier.thresholds_from = FROM_LABELS


def calibrate(
    predictions: NDArray[np.float64], labels: NDArray[np.int8]
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Slopes (A,) and offsets (A,) that turn predictions of 0 and 1 into logits, and the mean cross-entropy.

    Platt's scaling (1999), with slopes drawn towards a shared one, since rare attributes have few positives.
    Predictions, float64 (N, A), are of faces left out, labels int8 (N, A), 0 or 1, -1 where unknown.
    """
    known, targets = torch.from_numpy(labels >= 0), torch.from_numpy(labels == 1).double()
    share = (targets.sum(0) + 0.5) / (known.sum(0) + 1)
    # An offset for labels that are all alike would grow without end; the shrunken share is what they say.
    known &= (targets.sum(0) > 0) & (targets.sum(0) < known.sum(0))
    deviation = (share * (1 - share)).sqrt()
    inputs = torch.where(known, (torch.from_numpy(predictions) - share) / deviation, 0.0)
    shared = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    own = torch.zeros_like(share, requires_grad=True)
    offsets = share.logit().requires_grad_()

    def cross_entropy() -> Tensor:
        logits = offsets + (MIN_SLOPE + (shared + own).exp()) * inputs
        return F.binary_cross_entropy_with_logits(logits, targets, known.double(), reduction="sum")

    # The slopes' deviation from the shared one counts against the summed cross-entropy.
    minimise([shared, own, offsets], lambda: cross_entropy() + 2.0 * own.square().sum(), 200)
    slopes = ((MIN_SLOPE + (shared + own).exp()) / deviation).detach()
    loss = (cross_entropy() / known.sum().clamp(min=1)).item()
    return slopes.numpy(), (offsets.detach() - share * slopes).numpy(), loss
