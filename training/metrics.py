"""Scores of attribute predictions, by scikit-learn."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, average_precision_score, balanced_accuracy_score, roc_auc_score

SCORES: Final = ("accuracy", "balanced_accuracy", "average_precision", "roc_auc")


def scores(
    labels: NDArray[np.int8], probabilities: NDArray[np.float64], threshold: float
) -> dict[str, float | None]:
    """Scores of one attribute over the faces whose label is known.

    Args:
        labels: int8 (N,), 0 or 1, -1 where unknown.
        probabilities: float (N,), 0 to 1.
        threshold: a probability at or above it is a yes, for balanced accuracy; plain
            accuracy takes 0.5.

    Returns:
        A value per name in `SCORES`; None for all but accuracy where only one answer occurs,
        and for all where no label is known.
    """
    known = labels >= 0
    truth, guess = labels[known], probabilities[known]
    if not len(truth):
        return dict.fromkeys(SCORES)
    result: dict[str, float | None] = dict.fromkeys(SCORES)
    result["accuracy"] = float(accuracy_score(truth, guess >= 0.5))
    if truth.min() != truth.max():
        result["balanced_accuracy"] = float(balanced_accuracy_score(truth, guess >= threshold))
        result["average_precision"] = float(average_precision_score(truth, guess))
        result["roc_auc"] = float(roc_auc_score(truth, guess))
    return result


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


def mean_scores(by_attribute: dict[str, dict[str, float | None]]) -> dict[str, float | None]:
    """The mean of each score over the attributes that have it."""
    means: dict[str, float | None] = {}
    for name in SCORES:
        values = [value for score in by_attribute.values() if (value := score[name]) is not None]
        means[name] = round(float(np.mean(values)), 4) if values else None
    return means
