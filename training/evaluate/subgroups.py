"""Gaps between groups of faces: the mean scores of faces with an attribute, and of those without."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.evaluate.bootstrap import DIFFERENCE, Draws, interval, mean_of, resample
from training.evaluate.metrics import SCORES, all_scores


def gap(
    labels: NDArray[np.int8],
    probabilities: NDArray[np.float64],
    thresholds: Sequence[float],
    by: int,
    draws: Draws,
) -> dict[str, Any]:
    """Mean scores of the faces with and without one attribute, and their difference.

    The means of a score are over the attributes that have it in both groups, so that both are means
    of the same; the attribute that makes the groups is left out.

    Args:
        labels: int8 (N, A), 0 or 1, -1 where unknown.
        probabilities: float (N, A).
        thresholds: one per attribute, the same for both groups.
        by: position of the attribute that makes the groups; faces where it is unknown take no part.
        draws: float (R, N), see `training.evaluate.bootstrap.draw`.

    Returns:
        ``yes``, ``no``: ``faces``, and by score the mean and ``SCORE_interval``. ``difference``: yes
        minus no, in the same form. None where there is no such attribute.
    """
    others = [column for column in range(labels.shape[1]) if column != by]
    cut = [thresholds[column] for column in others]
    names, found, resampled = ("no", "yes"), [], []
    for answer in (0, 1):
        rows = labels[:, by] == answer
        part = labels[np.ix_(rows, others)], probabilities[np.ix_(rows, others)], cut
        values = [[each[name] for name in SCORES] for each in all_scores(*part)]
        found.append(np.array(values, np.float64).reshape(len(others), len(SCORES)))
        resampled.append(
            resample(*part, draws[:, rows]) if others else np.empty((len(draws), 0, len(SCORES)))
        )
    scored = ~np.isnan(found[0]) & ~np.isnan(found[1])
    means = [mean_of(each[None], scored)[0] for each in found]
    drawn = [mean_of(each, scored) for each in resampled]
    groups: dict[str, Any] = {
        name: {"faces": int((labels[:, by] == answer).sum()), **_named(means[answer], drawn[answer])}
        for answer, name in enumerate(names)
    }
    return {**groups, "difference": _named(means[1] - means[0], drawn[1] - drawn[0], DIFFERENCE)}


def _named(
    means: NDArray[np.float64], drawn: NDArray[np.float64], bounds: tuple[float, float] = (0.0, 1.0)
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for position, name in enumerate(SCORES):
        known = not np.isnan(means[position])
        value = float(means[position]) if known else None
        found[name] = None if value is None else round(value, 4)
        found[f"{name}_interval"] = interval(drawn[:, position], value, bounds)
    return found
