"""Confidence intervals by the bootstrap over identities.

A resample draws identities with replacement rather than faces, because photos of one person are not
independent. All metrics of all runs are computed on the same resamples, so differences are paired.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.evaluate.metrics import METRICS
from training.evaluate.weighted import WeightedPredictions, Weights


def resample_identities(identities: Sequence[str | None], resamples: int, seed: int) -> Weights:
    """How often each face occurs in each resample; a face of unknown identity is an identity of its own.

    Returns:
        float64 (R, N) of whole numbers; equal arguments give equal numbers.
    """
    names = [f"\0{i}" if identity is None else identity for i, identity in enumerate(identities)]
    people, person = np.unique(np.array(names, dtype=np.str_), return_inverse=True)
    count = len(people)
    times = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples)
    return times[:, person].astype(np.float64)


def resample_attribute(
    labels: NDArray[np.int8], probabilities: NDArray[np.float64], threshold: float, weights: Weights
) -> NDArray[np.float64]:
    """All metrics of one attribute on every resample.

    Args:
        labels: int8 (N,), 0 or 1, -1 where unknown.
        probabilities: float64 (N,), 0 to 1.
        threshold: as in `training.evaluate.metrics.score_attribute`.
        weights: float64 (R, N).

    Returns:
        float64 (R, M), M metrics in the order of `METRICS`; NaN where a metric is not defined.
    """
    known = labels >= 0
    values = np.full((len(weights), len(METRICS)), np.nan)
    if not known.any():
        return values
    predictions = WeightedPredictions(
        labels[known].astype(np.float64), probabilities[known], threshold, weights[:, known]
    )
    one_class = (predictions.positives == 0) | (predictions.negatives == 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        for column, metric in enumerate(METRICS.values()):
            values[:, column] = metric.resampled(predictions)
            if metric.needs_both_classes:
                values[one_class, column] = np.nan
    return values


def resample_attributes(
    labels: NDArray[np.int8],
    probabilities: NDArray[np.float64],
    thresholds: Sequence[float],
    weights: Weights,
) -> NDArray[np.float64]:
    """`resample_attribute` of all attributes, float64 (R, A, M).

    Args:
        labels: int8 (N, A), 0 or 1, -1 where unknown.
        probabilities: float64 (N, A), 0 to 1.
        thresholds: one per attribute.
        weights: float64 (R, N).
    """
    columns = zip(labels.T, probabilities.T, thresholds, strict=True)
    values = [resample_attribute(target, probability, cut, weights) for target, probability, cut in columns]
    return np.stack(values, axis=1) if values else np.empty((len(weights), 0, len(METRICS)))


def mean_over_attributes(resampled: NDArray[np.float64], defined: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The mean over the attributes for which a metric is defined, float64 (R, M).

    Args:
        resampled: float64 (R, A, M), NaN where a metric is not defined on a resample.
        defined: bool (A, M), whether the metric is defined for the attribute on the original faces.
    """
    known = defined & ~np.isnan(resampled)
    total = np.where(known, resampled, 0.0).sum(axis=1)
    count = known.sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def confidence_interval(
    values: NDArray[np.float64], estimate: float | None, bounds: tuple[float, float]
) -> list[float] | None:
    """The 95 % confidence interval [low, high] of an estimate.

    The 2.5th and 97.5th percentile of the resamples, shifted by the difference between the estimate and
    the mean of the resamples. A resample repeats faces, which alone raises average precision and
    calibration error, so plain percentiles would leave the estimate out.

    Args:
        values: float64 (R,), the value on every resample; NaN is left out.
        estimate: the value on the original faces.
        bounds: the least and greatest possible value, to which the interval is clipped.

    Returns:
        Both ends rounded to four decimals; None without an estimate or without any value.
    """
    known = values[~np.isnan(values)]
    if estimate is None or not len(known):
        return None
    ends = np.percentile(known, [2.5, 97.5]) - known.mean() + estimate
    return [round(float(end), 4) for end in ends.clip(*bounds)]
