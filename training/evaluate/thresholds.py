"""Decision thresholds per attribute, chosen on the val split."""

import numpy as np
from numpy.typing import NDArray

DEFAULT = 0.5
"""The threshold where nothing can be tuned."""


def best_threshold(labels: NDArray[np.int8], probabilities: NDArray[np.float64]) -> float:
    """The probability threshold with the highest balanced accuracy.

    Args:
        labels: int8 (N,), 0 or 1, -1 where unknown.
        probabilities: float (N,), 0 to 1.

    Returns:
        A value midway between two neighbouring probabilities; `DEFAULT` unless both classes occur.
    """
    known = labels >= 0
    target, probability = labels[known], probabilities[known]
    if not len(target) or target.min() == target.max():
        return DEFAULT
    order = np.argsort(probability, kind="stable")
    target, probability = target[order], probability[order]
    positives, negatives = target.sum(), (1 - target).sum()
    missed = np.concatenate(([0], np.cumsum(target)))
    rejected = np.concatenate(([0], np.cumsum(1 - target)))
    balanced = ((positives - missed) / positives + rejected / negatives) / 2
    midpoints = (probability[1:] + probability[:-1]) / 2
    candidates = np.concatenate(([probability[0]], midpoints, [probability[-1] + 1e-9]))
    distinct = np.concatenate(([True], probability[1:] > probability[:-1], [True]))
    return float(candidates[np.argmax(np.where(distinct, balanced, -1.0))])


def best_thresholds(labels: NDArray[np.int8], probabilities: NDArray[np.float64] | None) -> list[float]:
    """`best_threshold` of every attribute.

    Args:
        labels: int8 (N, A), 0 or 1, -1 where unknown.
        probabilities: float (N, A); None if there are no faces to tune on.
    """
    if probabilities is None:
        return [DEFAULT] * labels.shape[1]
    columns = zip(labels.T, probabilities.T, strict=True)
    return [best_threshold(target, probability) for target, probability in columns]
