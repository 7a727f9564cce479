"""Calibration: how often a predicted probability comes true."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve

BINS: Final = 15
"""Number of equally wide bins of the calibration error, as in Guo et al., "On Calibration of Modern
Neural Networks", ICML 2017."""


def bin_of(probabilities: NDArray[np.float64]) -> NDArray[np.intp]:
    """The bin, 0 to BINS - 1, of each probability, as scikit-learn's `calibration_curve` cuts them."""
    return np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], probabilities)


def reliability(
    labels: NDArray[np.int8], probabilities: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """The reliability curve of predictions whose labels are known.

    Args:
        labels: int8 (N,), 0 or 1; N > 0.
        probabilities: float (N,), 0 to 1.

    Returns:
        For each bin that is not empty, the mean probability, the share of positive labels, and the count.
    """
    # Labels of a single class are valid here; scikit-learn accepts them only with an explicit pos_label.
    observed, predicted = calibration_curve(labels == 1, probabilities, n_bins=BINS, pos_label=True)
    counts = np.bincount(bin_of(probabilities), minlength=BINS)
    return predicted, observed, counts[counts > 0]


def calibration_error(labels: NDArray[np.int8], probabilities: NDArray[np.float64]) -> float:
    """Expected calibration error: the mean distance of the reliability curve from the diagonal,
    weighted by the count of each bin. The arguments are those of `reliability`.
    """
    predicted, observed, counts = reliability(labels, probabilities)
    return float(np.average(np.abs(predicted - observed), weights=counts))
