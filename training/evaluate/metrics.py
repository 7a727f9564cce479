"""Scores of attribute predictions, by scikit-learn."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
    roc_auc_score,
)

SCORES: Final = (
    *("accuracy", "balanced_accuracy", "f1", "average_precision", "roc_auc"),
    "calibration_error",
)
"""Names of the scores; all lie in 0..1, and the last is the only one of which less is better."""

BINS: Final = 15
"""Bins of equal width of the calibration error, as in Guo et al., "On calibration of modern neural
networks", 2017."""


def scores(
    labels: NDArray[np.int8], probabilities: NDArray[np.float64], threshold: float
) -> dict[str, float | None]:
    """Scores of one attribute over the faces whose label is known.

    Args:
        labels: int8 (N,), 0 or 1, -1 where unknown.
        probabilities: float (N,), 0 to 1.
        threshold: a probability at or above it is a yes, for balanced accuracy and F1; plain
            accuracy takes 0.5.

    Returns:
        A value per name in `SCORES`; None for all but accuracy and calibration error where only one
        answer occurs, and for all where no label is known.
    """
    known = labels >= 0
    truth, guess = labels[known], probabilities[known]
    if not len(truth):
        return dict.fromkeys(SCORES)
    result: dict[str, float | None] = dict.fromkeys(SCORES)
    result["accuracy"] = float(accuracy_score(truth, guess >= 0.5))
    result["calibration_error"] = calibration_error(truth, guess)
    if truth.min() != truth.max():
        result["balanced_accuracy"] = float(balanced_accuracy_score(truth, guess >= threshold))
        result["f1"] = float(f1_score(truth, guess >= threshold))
        result["average_precision"] = float(average_precision_score(truth, guess))
        result["roc_auc"] = float(roc_auc_score(truth, guess))
    return result


def bin_of(probabilities: NDArray[np.float64]) -> NDArray[np.intp]:
    """The bin, 0..BINS-1, of each probability, by the edges of scikit-learn's ``calibration_curve``."""
    return np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], probabilities)


def reliability(
    labels: NDArray[np.int8], probabilities: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """The reliability curve of predictions whose labels are known: how often a probability comes true.

    Args:
        labels: int8 (N,), 0 or 1; N > 0.
        probabilities: float (N,), 0 to 1.

    Returns:
        For each bin that is not empty: mean probability, share of labels 1, and count.
    """
    # scikit-learn wants to have seen both answers, unless it is told which one is the yes.
    observed, predicted = calibration_curve(labels == 1, probabilities, n_bins=BINS, pos_label=True)
    counts = np.bincount(bin_of(probabilities), minlength=BINS)
    return predicted, observed, counts[counts > 0]


def calibration_error(labels: NDArray[np.int8], probabilities: NDArray[np.float64]) -> float:
    """Expected calibration error: the mean distance of the reliability curve from the diagonal,
    weighted by the count of each bin; arguments as in `reliability`.
    """
    predicted, observed, counts = reliability(labels, probabilities)
    return float(np.average(np.abs(predicted - observed), weights=counts))


def best_threshold(labels: NDArray[np.int8], probabilities: NDArray[np.float64]) -> float:
    """The probability threshold with the best balanced accuracy, from faces that are not tested on.

    0.5 where only one answer occurs. The threshold lies midway between two neighbouring
    probabilities.
    """
    known = labels >= 0
    truth, guess = labels[known], probabilities[known]
    if not len(truth) or truth.min() == truth.max():
        return 0.5
    order = np.argsort(guess, kind="stable")
    truth, guess = truth[order], guess[order]
    yes, no = truth.sum(), (1 - truth).sum()
    below_yes = np.concatenate(([0], np.cumsum(truth)))
    below_no = np.concatenate(([0], np.cumsum(1 - truth)))
    balanced = ((yes - below_yes) / yes + below_no / no) / 2
    edges = np.concatenate(([guess[0]], (guess[1:] + guess[:-1]) / 2, [guess[-1] + 1e-9]))
    possible = np.concatenate(([True], guess[1:] > guess[:-1], [True]))
    return float(edges[np.argmax(np.where(possible, balanced, -1.0))])


def thresholds(labels: NDArray[np.int8], probabilities: NDArray[np.float64] | None) -> list[float]:
    """`best_threshold` of every attribute.

    Args:
        labels: int8 (N, A), 0 or 1, -1 where unknown.
        probabilities: float (N, A); None if there are no faces to tune on.
    """
    if probabilities is None:
        return [0.5] * labels.shape[1]
    return [best_threshold(truth, guess) for truth, guess in zip(labels.T, probabilities.T, strict=True)]


def all_scores(
    labels: NDArray[np.int8], probabilities: NDArray[np.float64], thresholds: Sequence[float]
) -> list[dict[str, float | None]]:
    """`scores` of every attribute; labels int8 (N, A), probabilities float (N, A)."""
    columns = zip(labels.T, probabilities.T, thresholds, strict=True)
    return [scores(truth, guess, threshold) for truth, guess, threshold in columns]


def mean_scores(by_attribute: Iterable[Mapping[str, float | None]]) -> dict[str, float | None]:
    """The mean of each score over the attributes that have it."""
    found = list(by_attribute)
    means: dict[str, float | None] = {}
    for name in SCORES:
        values = [value for each in found if (value := each[name]) is not None]
        means[name] = round(float(np.mean(values)), 4) if values else None
    return means
