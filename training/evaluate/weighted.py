"""Predictions of one attribute with a weight per face, for many sets of weights (resamples) at once.

scikit-learn takes one set of weights at a time, which would make an hour of what takes seconds here.
What several metrics need, such as the confusion counts and the ranking, is computed once and cached.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float64]
"""(R, N): how often each of N faces occurs in each of R resamples."""


@dataclass(frozen=True)
class WeightedPredictions:
    """The predictions of one attribute on the faces whose label is known.

    Attributes:
        labels: float64 (N,), 0 or 1; N > 0.
        probabilities: float64 (N,), 0 to 1.
        threshold: a probability at or above it is a positive prediction.
        weights: float64 (R, N).
    """

    labels: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    threshold: float
    weights: Weights

    @cached_property
    def total(self) -> NDArray[np.float64]:
        """The sum of the weights, float64 (R,)."""
        return self.weights.sum(axis=1)

    @cached_property
    def positives(self) -> NDArray[np.float64]:
        """The weight of the positive labels, float64 (R,)."""
        return self.weights @ self.labels

    @property
    def negatives(self) -> NDArray[np.float64]:
        """The weight of the negative labels, float64 (R,)."""
        return self.total - self.positives

    @cached_property
    def true_positives(self) -> NDArray[np.float64]:
        """The weight of the positive labels that are predicted, float64 (R,)."""
        return self.weights @ (self.labels * (self.probabilities >= self.threshold))

    @cached_property
    def false_positives(self) -> NDArray[np.float64]:
        """The weight of the negative labels that are predicted to be positive, float64 (R,)."""
        return self.weights @ ((1 - self.labels) * (self.probabilities >= self.threshold))

    @cached_property
    def ranking(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """True and false positives at each of K distinct probabilities as threshold, highest first.

        Returns:
            Two float64 (R, K), both cumulative; faces of equal probability share one threshold.
        """
        order = np.argsort(-self.probabilities, kind="stable")
        last = np.flatnonzero(np.append(np.diff(self.probabilities[order]) != 0, True))
        weights = self.weights[:, order]
        above = np.cumsum(weights, axis=1)[:, last]
        true_positives = np.cumsum(weights * self.labels[order], axis=1)[:, last]
        return true_positives, above - true_positives
