"""How far chance in the choice of test faces moves a score: the bootstrap over identities.

A resample draws identities, not faces, with replacement, because pictures of one person are not
independent. All scores of all runs are taken on the same resamples, so differences are paired.
The scores are those of `training.evaluate.metrics`, written with a weight per face, for all resamples at
once: scikit-learn takes one set of weights at a time and would need an hour for what takes seconds here.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.evaluate.metrics import BINS, SCORES, bin_of

Draws = NDArray[np.float64]
"""(R, N): how often each of N faces is in each of R resamples."""


def draw(identities: Sequence[str | None], resamples: int, seed: int) -> Draws:
    """Resample identities; a face of unknown identity is one of its own.

    Returns:
        float64 (R, N), whole numbers; equal arguments give equal numbers.
    """
    own = [f"\0{i}" if identity is None else identity for i, identity in enumerate(identities)]
    people, person = np.unique(np.array(own, dtype=np.str_), return_inverse=True)
    count = len(people)
    times = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples)
    return times[:, person].astype(np.float64)


def resampled_scores(
    labels: NDArray[np.int8], probabilities: NDArray[np.float64], threshold: float, draws: Draws
) -> NDArray[np.float64]:
    """The scores of one attribute on every resample.

    Args:
        labels: int8 (N,), 0 or 1, -1 where unknown.
        probabilities: float (N,), 0 to 1.
        threshold: as in `training.evaluate.metrics.scores`.
        draws: float (R, N).

    Returns:
        float64 (R, len(SCORES)), in that order; NaN where `training.evaluate.metrics.scores` has None.
    """
    known = labels >= 0
    truth, guess, weights = labels[known].astype(np.float64), probabilities[known], draws[:, known]
    found = dict.fromkeys(SCORES, np.full(len(draws), np.nan))
    if not len(truth):
        return np.stack([found[name] for name in SCORES], axis=1)
    yes = guess >= threshold
    counted = weights @ np.stack(
        [np.ones_like(truth), truth, (guess >= 0.5) == truth, yes * truth, yes * (1 - truth)], axis=1
    )
    total, positive, right, true_yes, false_yes = counted.T
    negative = total - positive
    with np.errstate(invalid="ignore", divide="ignore"):
        found["accuracy"] = right / total
        # The counts of a bin cancel: |mean probability - share| * count = |sum of (probability - label)|.
        distance = np.zeros((len(truth), BINS))
        distance[np.arange(len(truth)), bin_of(guess)] = guess - truth
        found["calibration_error"] = np.abs(weights @ distance).sum(axis=1) / total
        both = np.where((positive > 0) & (negative > 0), 1.0, np.nan)
        found["balanced_accuracy"] = both * (true_yes / positive + 1 - false_yes / negative) / 2
        found["f1"] = both * 2 * true_yes / (positive + true_yes + false_yes)
        precision, area = _ranking(truth, guess, weights, positive, negative)
        found["average_precision"], found["roc_auc"] = both * precision, both * area
    return np.stack([found[name] for name in SCORES], axis=1)


def _ranking(
    truth: NDArray[np.float64],
    guess: NDArray[np.float64],
    weights: Draws,
    positive: NDArray[np.float64],
    negative: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Average precision and ROC AUC, float64 (R,); faces of equal probability count as one threshold."""
    order = np.argsort(-guess, kind="stable")
    last = np.flatnonzero(np.append(np.diff(guess[order]) != 0, True))
    drawn = weights[:, order]
    above = np.cumsum(drawn, axis=1)[:, last]
    hits = np.cumsum(drawn * truth[order], axis=1)[:, last]
    gained = np.diff(hits, axis=1, prepend=0.0)
    precision = np.einsum("rk,rk->r", gained, hits / np.maximum(above, 1.0)) / positive
    missed = np.diff(above - hits, axis=1, prepend=0.0)
    area = np.einsum("rk,rk->r", missed, hits - gained / 2) / (positive * negative)
    return precision, area


def resample(
    labels: NDArray[np.int8],
    probabilities: NDArray[np.float64],
    thresholds: Sequence[float],
    draws: Draws,
) -> NDArray[np.float64]:
    """The scores of all attributes on every resample, float64 (R, A, len(SCORES)).

    Args:
        labels, probabilities: (N, A).
        thresholds: one per attribute.
        draws: (R, N).
    """
    columns = zip(labels.T, probabilities.T, thresholds, strict=True)
    found = [resampled_scores(truth, guess, threshold, draws) for truth, guess, threshold in columns]
    return np.stack(found, axis=1) if found else np.empty((len(draws), 0, len(SCORES)))


def mean_of(resampled: NDArray[np.float64], scored: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The mean over the attributes that have the score, float64 (R, len(SCORES)).

    Args:
        resampled: (R, A, len(SCORES)).
        scored: (A, len(SCORES)): whether the attribute has the score on the real test faces.
    """
    known = scored & ~np.isnan(resampled)
    total = np.where(known, resampled, 0.0).sum(axis=1)
    count = known.sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def interval(
    values: NDArray[np.float64], estimate: float | None, bounds: tuple[float, float] = (0.0, 1.0)
) -> list[float] | None:
    """[low, high]: how far 95 % of the resamples lie around what the real test faces give.

    The 2.5th and 97.5th percentile, moved by as much as the mean of the resamples is off the estimate:
    a resample repeats faces, which alone makes average precision and calibration error larger, so plain
    percentiles would leave the estimate out.

    Args:
        values: (R,); NaN counts as not drawn.
        estimate: the score of the real test faces.
        bounds: least and greatest possible value.

    Returns:
        None without an estimate or without any value.
    """
    known = values[~np.isnan(values)]
    if estimate is None or not len(known):
        return None
    edges = np.percentile(known, [2.5, 97.5]) - known.mean() + estimate
    return [round(float(edge), 4) for edge in edges.clip(*bounds)]


DIFFERENCE = (-1.0, 1.0)
"""The bounds of a difference of two scores."""
