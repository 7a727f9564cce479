"""The metrics of attribute predictions.

`METRICS` is the only list of them: an entry adds a metric to the JSON files, the tables, the confidence
intervals, the plots and the pages. Each metric is written twice, once for a plain set of faces (mostly by
scikit-learn), and once for many weighted resamples of it at once (see `training.evaluate.weighted`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
    roc_auc_score,
)

from training.evaluate.calibration import BINS, bin_of, calibration_error
from training.evaluate.weighted import WeightedPredictions

Scores = dict[str, float | None]
"""A value per metric by name; None where the metric is not defined."""


@dataclass(frozen=True)
class Metric:
    """One metric of binary predictions.

    Attributes:
        name: its key in files.
        title: what tables and pages call it, in lower case.
        function: (labels, probabilities, threshold) to the value, for labels int8 (N,) of 0 and 1 with
            N > 0, probabilities float64 (N,), and the threshold at or above which a prediction is positive.
        resampled: the same on every resample, float64 (R,).
        bounds: its least and greatest possible value.
        higher_is_better: its direction.
        needs_both_classes: whether it is undefined unless both labels occur.
        headline: whether it appears where there is room for a few metrics only.
    """

    name: str
    title: str
    function: Callable[[NDArray[np.int8], NDArray[np.float64], float], float]
    resampled: Callable[[WeightedPredictions], NDArray[np.float64]]
    bounds: tuple[float, float] = (0.0, 1.0)
    higher_is_better: bool = True
    needs_both_classes: bool = True
    headline: bool = False

    @property
    def difference_bounds(self) -> tuple[float, float]:
        """The least and greatest possible difference of two values."""
        low, high = self.bounds
        return low - high, high - low


def _resampled_accuracy(predictions: WeightedPredictions) -> NDArray[np.float64]:
    correct = (predictions.probabilities >= 0.5) == predictions.labels
    return predictions.weights @ correct.astype(np.float64) / predictions.total


def _resampled_balanced_accuracy(predictions: WeightedPredictions) -> NDArray[np.float64]:
    sensitivity = predictions.true_positives / predictions.positives
    return (sensitivity + 1 - predictions.false_positives / predictions.negatives) / 2


def _resampled_f1(predictions: WeightedPredictions) -> NDArray[np.float64]:
    predicted = predictions.true_positives + predictions.false_positives
    return 2 * predictions.true_positives / (predictions.positives + predicted)


def _resampled_average_precision(predictions: WeightedPredictions) -> NDArray[np.float64]:
    true_positives, false_positives = predictions.ranking
    precision = true_positives / np.maximum(true_positives + false_positives, 1.0)
    gained = np.diff(true_positives, axis=1, prepend=0.0)
    return np.einsum("rk,rk->r", gained, precision) / predictions.positives


def _resampled_roc_auc(predictions: WeightedPredictions) -> NDArray[np.float64]:
    true_positives, false_positives = predictions.ranking
    gained = np.diff(true_positives, axis=1, prepend=0.0)
    steps = np.diff(false_positives, axis=1, prepend=0.0)
    area = np.einsum("rk,rk->r", steps, true_positives - gained / 2)
    return area / (predictions.positives * predictions.negatives)


def _resampled_calibration_error(predictions: WeightedPredictions) -> NDArray[np.float64]:
    # The count of a bin cancels: |mean probability - share| * count = |sum of (probability - label)|.
    count = len(predictions.labels)
    distance = np.zeros((count, BINS))
    distance[np.arange(count), bin_of(predictions.probabilities)] = (
        predictions.probabilities - predictions.labels
    )
    return np.abs(predictions.weights @ distance).sum(axis=1) / predictions.total


METRICS: Final[dict[str, Metric]] = {
    metric.name: metric
    for metric in (
        Metric(
            "accuracy",
            "accuracy",
            # At 0.5 rather than the tuned threshold, as the literature on CelebA reports it.
            lambda labels, probabilities, threshold: float(accuracy_score(labels, probabilities >= 0.5)),
            _resampled_accuracy,
            needs_both_classes=False,
        ),
        Metric(
            "balanced_accuracy",
            "balanced accuracy",
            lambda labels, probabilities, threshold: float(
                balanced_accuracy_score(labels, probabilities >= threshold)
            ),
            _resampled_balanced_accuracy,
            headline=True,
        ),
        Metric(
            "f1",
            "F1",
            lambda labels, probabilities, threshold: float(f1_score(labels, probabilities >= threshold)),
            _resampled_f1,
        ),
        Metric(
            "average_precision",
            "average precision",
            lambda labels, probabilities, threshold: float(average_precision_score(labels, probabilities)),
            _resampled_average_precision,
            headline=True,
        ),
        Metric(
            "roc_auc",
            "ROC AUC",
            lambda labels, probabilities, threshold: float(roc_auc_score(labels, probabilities)),
            _resampled_roc_auc,
        ),
        Metric(
            "calibration_error",
            "calibration error",
            lambda labels, probabilities, threshold: calibration_error(labels, probabilities),
            _resampled_calibration_error,
            higher_is_better=False,
            needs_both_classes=False,
        ),
    )
}
"""All metrics by name, in the order of tables."""

PRIMARY: Final = "average_precision"
"""The metric by which runs are compared where one number must decide."""


def score_attribute(labels: NDArray[np.int8], probabilities: NDArray[np.float64], threshold: float) -> Scores:
    """All metrics of one attribute over the faces whose label is known.

    Args:
        labels: int8 (N,), 0 or 1, -1 where unknown.
        probabilities: float64 (N,), 0 to 1.
        threshold: a probability at or above it is a positive prediction.
    """
    known = labels >= 0
    targets, predicted = labels[known], probabilities[known]
    classes = len(np.unique(targets))
    return {
        name: metric.function(targets, predicted, threshold)
        if classes >= (2 if metric.needs_both_classes else 1)
        else None
        for name, metric in METRICS.items()
    }


def score_attributes(
    labels: NDArray[np.int8], probabilities: NDArray[np.float64], thresholds: Sequence[float]
) -> list[Scores]:
    """`score_attribute` of every attribute; labels int8 (N, A), probabilities float64 (N, A)."""
    columns = zip(labels.T, probabilities.T, thresholds, strict=True)
    return [score_attribute(target, probability, cut) for target, probability, cut in columns]


def mean_scores(by_attribute: Iterable[Mapping[str, float | None]]) -> Scores:
    """The mean of each metric over the attributes for which it is defined."""
    scores = list(by_attribute)
    means: Scores = {}
    for name in METRICS:
        values = [value for each in scores if (value := each[name]) is not None]
        means[name] = round(float(np.mean(values)), 4) if values else None
    return means
