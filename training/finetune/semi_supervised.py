"""Stage 2 with unlabelled samples: a teacher, the student's averaged weights, gives them targets.

After mean teachers (Tarvainen and Valpola 2017) and FixMatch (Sohn et al. 2020): the teacher sees an
image without augmentation, and the student learns to predict the same for a strongly augmented view.
Attributes differ too much in frequency for one confidence threshold: every attribute has its own for
positive and for negative pseudo-labels, so that pseudo-labels are as frequent as labels.
"""

import copy

import torch
from torch import Tensor
from torch_ema import ExponentialMovingAverage

from training.engine.batch_norm import batch_statistics
from training.engine.distributed import Ranks
from training.models.classifier import Classifier


def positive_shares(labels: Tensor) -> Tensor:
    """The share of positives among the known labels, float (A,); NaN unless both classes occur.

    Args:
        labels: integer (N, A) of 0 and 1, -1 where unknown.
    """
    positives, negatives = (labels == 1).sum(0), (labels == 0).sum(0)
    both = (positives > 0) & (negatives > 0)
    return torch.where(both, positives / (positives + negatives), torch.nan)


class PseudoLabelThresholds:
    """Per attribute, the logits at or above which a sample is positive, and at or below which it is negative.

    They are quantiles of the teacher's recent logits: for a share p of positives among the labels, the
    highest ``keep`` x p of them are positive and the lowest ``keep`` x (1 - p) negative.

    Args:
        shares: float (A,), see `positive_shares`; an attribute with NaN gets no pseudo-labels.
        keep: share of the samples that get a pseudo-label.
        window: how many samples' logits the quantiles are taken over.
        ranks: the processes, whose logits are pooled.

    Attributes:
        recent: the logits of the window, float (N, A).
    """

    def __init__(self, shares: Tensor, keep: float, window: int, ranks: Ranks) -> None:
        self._keep, self._window, self._ranks = keep, window, ranks
        self._shares = shares.nan_to_num(0.5).tolist()  # read once: a step must not wait for the device
        self._known = ~shares.isnan()
        self.recent = torch.empty(0, len(shares), device=shares.device)

    def pseudo_labels(self, logits: Tensor) -> Tensor:
        """Int8 (B, A) of 1, 0 and -1 for the teacher's `logits`, float (B, A), which join the window."""
        pooled = self._ranks.concatenated(logits.float())
        self.recent = torch.cat((self.recent, pooled))[-self._window :]
        ascending, count = self.recent.sort(dim=0).values, len(self.recent)
        rows = torch.tensor(
            [
                [count - max(1, round(self._keep * share * count)) for share in self._shares],
                [max(1, round(self._keep * (1 - share) * count)) - 1 for share in self._shares],
            ]
        )
        least_positive, greatest_negative = ascending.gather(0, rows.to(ascending.device, non_blocking=True))
        labels = torch.full(logits.shape, -1, dtype=torch.int8, device=logits.device)
        labels.masked_fill_(self._known & (logits >= least_positive), 1)
        return labels.masked_fill_(self._known & (logits <= greatest_negative), 0)


class Teacher:
    """The network with the averaged weights, which follow `average` without being copied.

    Args:
        student: the network that is trained.
        average: the moving average of its parameters.
        thresholds: decide which logits become pseudo-labels.
        soft: see `common.config.SemiSupervised`.
    """

    def __init__(
        self,
        student: Classifier,
        average: ExponentialMovingAverage,
        thresholds: PseudoLabelThresholds,
        soft: bool,
    ) -> None:
        self._network = copy.deepcopy(student).requires_grad_(False)
        for parameter, shadow in zip(self._network.parameters(), average.shadow_params, strict=True):
            parameter.data = shadow
        self._thresholds, self._soft = thresholds, soft

    def targets(self, inputs: Tensor) -> Tensor:
        """Targets of normalised images without augmentation, float (B, 3, S, S).

        Returns:
            float32 (B, A): 1 or 0, or with ``soft`` the probability; -1 where there is no pseudo-label.
        """
        with batch_statistics(self._network):
            logits = self._network(inputs).float()
        labels = self._thresholds.pseudo_labels(logits).float()
        return torch.where(labels < 0, labels, logits.sigmoid()) if self._soft else labels
