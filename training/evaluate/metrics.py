"""The metrics of attribute predictions, on the faces themselves and on many resamples of them at once.

`METRICS` is the only list of them: an entry adds a metric to the JSON files, the tables, the confidence
intervals, the plots and the pages. A metric is a function of predictions with a weight per face, for many
sets of weights: scikit-learn takes one set at a time, which would make an hour of what takes seconds here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Number of equally wide bins of the calibration error, as in Guo et al., "On Calibration of Modern Neural
# Networks", ICML 2017.
BINS: Final = 15


class Predictions:
    """The predictions of one attribute on the faces whose label is known.

    Args:
        labels: float64 (N,), 0 or 1.
        probabilities: float64 (N,), 0 to 1.
        threshold: a probability at or above it is a positive prediction.
        weights: float64 (R, N), how often each face counts in each of R resamples.

    Attributes:
        total, positives, negatives: the weight of all, of positive and of negative labels, float64 (R,).
        true_positives, false_positives: that of those which are predicted to be positive.
    """

    def __init__(self, labels: Floats, probabilities: Floats, threshold: float, weights: Floats) -> None:
        self.labels, self.probabilities, self.weights = labels, probabilities, weights
        self.total, self.positives = weights.sum(axis=1), weights @ labels
        self.negatives, predicted = self.total - self.positives, probabilities >= threshold
        self.true_positives = weights @ (labels * predicted)
        self.false_positives = weights @ ((1 - labels) * predicted)

    @cached_property
    def ranking(self) -> tuple[Floats, Floats]:
        """True and false positives, cumulative, float64 (R, K), at each of K thresholds, highest first.

        The thresholds are the distinct probabilities; faces of equal probability share one.
        """
        order = np.argsort(-self.probabilities, kind="stable")
        last = np.flatnonzero(np.append(np.diff(self.probabilities[order]) != 0, True))
        weights = self.weights[:, order]
        true_positives = np.cumsum(weights * self.labels[order], axis=1)[:, last]
        return true_positives, np.cumsum(weights, axis=1)[:, last] - true_positives


@dataclass(frozen=True)
class Metric:
    """One metric of binary predictions, from 0 to 1."""

    name: str  # its key in files
    title: str  # what tables and pages call it, in lower case
    function: Callable[[Predictions], Floats]  # predictions to the value on every resample, float64 (R,)
    higher_is_better: bool = True
    needs_both_classes: bool = True  # whether it is undefined unless both labels occur
    headline: bool = False  # whether it appears where there is room for a few metrics only


def _accuracy(predictions: Predictions) -> Floats:
    # At 0.5 rather than the tuned threshold, as the literature on CelebA reports it.
    correct = (predictions.probabilities >= 0.5) == predictions.labels
    return predictions.weights @ correct.astype(np.float64) / predictions.total


def _balanced_accuracy(predictions: Predictions) -> Floats:
    sensitivity = predictions.true_positives / predictions.positives
    return (sensitivity + 1 - predictions.false_positives / predictions.negatives) / 2


def _f1(predictions: Predictions) -> Floats:
    predicted = predictions.true_positives + predictions.false_positives
    return 2 * predictions.true_positives / (predictions.positives + predicted)


def _average_precision(predictions: Predictions) -> Floats:
    true_positives, false_positives = predictions.ranking
    precision = true_positives / np.maximum(true_positives + false_positives, 1.0)
    gained = np.diff(true_positives, axis=1, prepend=0.0)
    return np.einsum("rk,rk->r", gained, precision) / predictions.positives


def _roc_auc(predictions: Predictions) -> Floats:
    true_positives, false_positives = predictions.ranking
    gained = np.diff(true_positives, axis=1, prepend=0.0)
    steps = np.diff(false_positives, axis=1, prepend=0.0)
    area = np.einsum("rk,rk->r", steps, true_positives - gained / 2)
    return area / (predictions.positives * predictions.negatives)


def bin_of(probabilities: Floats) -> NDArray[np.intp]:
    """The bin, 0 to BINS - 1, of each probability, as scikit-learn's `calibration_curve` cuts them."""
    return np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], probabilities)


def _calibration_error(predictions: Predictions) -> Floats:
    # The count of a bin cancels: |mean probability - share| * count = |sum of (probability - label)|.
    distance = np.zeros((len(predictions.labels), BINS))
    differences = predictions.probabilities - predictions.labels
    distance[np.arange(len(distance)), bin_of(predictions.probabilities)] = differences
    return np.abs(predictions.weights @ distance).sum(axis=1) / predictions.total


# All metrics by name, in the order of tables.
METRICS: Final[dict[str, Metric]] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "accuracy", _accuracy, needs_both_classes=False),
        Metric("balanced_accuracy", "balanced accuracy", _balanced_accuracy, headline=True),
        Metric("f1", "F1", _f1),
        Metric("average_precision", "average precision", _average_precision, headline=True),
        Metric("roc_auc", "ROC AUC", _roc_auc),
        Metric(
            "calibration_error",
            "calibration error",
            _calibration_error,
            higher_is_better=False,
            needs_both_classes=False,
        ),
    )
}

PRIMARY: Final = "average_precision"  # The metric by which runs are compared where one number must decide


def score(
    labels: NDArray[np.int8], probabilities: Floats, thresholds: Sequence[float], weights: Floats
) -> Floats:
    """All metrics of every attribute over the faces whose label is known, on every resample.

    Args:
        labels: int8 (N, A), 0 or 1, -1 where unknown.
        probabilities: float64 (N, A), 0 to 1.
        thresholds: one per attribute; a probability at or above it is a positive prediction.
        weights: float64 (R, N), how often each face counts.

    Returns:
        float64 (R, A, M), M metrics in the order of `METRICS`; NaN where a metric is not defined.
    """
    values = np.full((len(weights), len(thresholds), len(METRICS)), np.nan)
    for column, threshold in enumerate(thresholds):
        if not (known := labels[:, column] >= 0).any():
            continue
        targets = labels[known, column].astype(np.float64)
        predictions = Predictions(targets, probabilities[known, column], threshold, weights[:, known])
        one_class = (predictions.positives == 0) | (predictions.negatives == 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            for position, metric in enumerate(METRICS.values()):
                values[:, column, position] = metric.function(predictions)
                if metric.needs_both_classes:
                    values[one_class, column, position] = np.nan
    return values
