"""Stage 2 with the unlabelled faces: the averaged network teaches the one that learns.

After mean teachers (Tarvainen and Valpola 2017) and FixMatch (Sohn et al. 2020): the teacher sees
a face as it is, the learner sees it strongly changed and is to answer the same. Attributes differ
too much in frequency for one threshold of confidence: each attribute, and each answer to it, has
its own, so that the pseudo-labels are as frequent as the labels are.
"""

import copy

import torch
from torch import Tensor
from torch_ema import ExponentialMovingAverage

from common.config import SemiSupervised
from training.engine.batch_norm import batch_statistics
from training.models.classifier import Classifier


def label_shares(attributes: Tensor) -> Tensor:
    """The share of yes among the known labels, float (A,); not a number where one answer never occurs.

    Args:
        attributes: integer (N, A) of 0 and 1, -1 where unknown.
    """
    yes, no = (attributes == 1).sum(0), (attributes == 0).sum(0)
    return torch.where((yes > 0) & (no > 0), yes / (yes + no), torch.nan)


class Thresholds:
    """Per attribute the logits from which on a face is a yes, and up to which it is a no.

    They are quantiles of the teacher's recent answers: with a share p of yes among the labels, the
    greatest ``keep`` x p of them are yes and the least ``keep`` x (1 - p) are no.

    Args:
        shares: float (A,), see `label_shares`; an attribute that is not a number gets no labels.
        keep: share of the faces that get a label.
        recent: how many answers count.
    """

    def __init__(self, shares: Tensor, keep: float, recent: int) -> None:
        self._shares, self._keep, self._recent = shares, keep, recent
        self._answers = torch.empty(0, len(shares), device=shares.device)

    def pseudo_labels(self, logits: Tensor) -> Tensor:
        """Int8 (B, A) of 1, 0 and -1 for the teacher's `logits`, float (B, A), which count from now on."""
        self._answers = torch.cat((self._answers, logits.float()))[-self._recent :]
        ranked, count = self._answers.sort(dim=0).values, len(self._answers)
        labels = torch.full(logits.shape, -1, dtype=torch.int8, device=logits.device)
        for column, share in enumerate(self._shares.tolist()):
            if share != share:
                continue
            yes = max(1, round(self._keep * share * count))
            no = max(1, round(self._keep * (1 - share) * count))
            labels[logits[:, column] >= ranked[count - yes, column], column] = 1
            labels[logits[:, column] <= ranked[no - 1, column], column] = 0
        return labels


class Teacher:
    """The averaged network, which follows `average` without copying, and its thresholds.

    Args:
        model: the network that learns.
        average: the average of its parameters.
        attributes: labels of the labelled faces, integer (N, A).
        config: see `SemiSupervised`.
    """

    def __init__(
        self, model: Classifier, average: ExponentialMovingAverage, attributes: Tensor, config: SemiSupervised
    ) -> None:
        self._network = copy.deepcopy(model).requires_grad_(False)
        for parameter, shadow in zip(self._network.parameters(), average.shadow_params, strict=True):
            parameter.data = shadow
        self._soft = config.soft
        self._thresholds = Thresholds(label_shares(attributes), config.keep, config.recent)

    def pseudo_labels(self, pictures: Tensor) -> Tensor:
        """Targets for unchanged pictures, float (B, 3, S, S).

        Returns:
            float32 (B, A): 1 or 0, or if ``soft`` the probabilities, and -1 where there is no label.
        """
        with batch_statistics(self._network):
            logits = self._network(pictures).float()
        labels = self._thresholds.pseudo_labels(logits).float()
        return torch.where(labels < 0, labels, logits.sigmoid()) if self._soft else labels
