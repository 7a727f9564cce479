"""Average precision over labels of which some are unknown: what validation and evaluation both go by."""

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score


def mean_average_precision(labels: NDArray[np.int8], scores: NDArray[np.floating]) -> float | None:
    """The mean of the average precisions of all columns in which both classes occur.

    Args:
        labels: int8 (N, A), 0 or 1, -1 where unknown.
        scores: float (N, A), logits or probabilities.

    Returns:
        0 to 1; None if both classes occur in no column.
    """
    values = []
    for target, score in zip(labels.T, scores.T, strict=True):
        known = target >= 0
        if known.any() and target[known].min() != target[known].max():
            values.append(float(average_precision_score(target[known], score[known])))
    return float(np.mean(values)) if values else None
