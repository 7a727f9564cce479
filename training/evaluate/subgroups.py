"""Metrics by subgroup: the faces with an attribute against the faces without it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.evaluate.bootstrap import confidence_interval, mean_over_attributes, resample_attributes
from training.evaluate.metrics import METRICS, score_attributes
from training.evaluate.weighted import Weights


def compare_subgroups(
    labels: NDArray[np.int8],
    probabilities: NDArray[np.float64],
    thresholds: Sequence[float],
    by: int,
    weights: Weights,
) -> dict[str, Any]:
    """Mean metrics of the faces with and without one attribute, and their difference.

    The mean of a metric is over the attributes for which it is defined in both subgroups, so that both
    means are comparable; the attribute that defines the subgroups is left out.

    Args:
        labels: int8 (N, A), 0 or 1, -1 where unknown.
        probabilities: float64 (N, A), 0 to 1.
        thresholds: one per attribute, the same for both subgroups.
        by: column of the attribute that defines the subgroups; faces without its label are left out.
        weights: float64 (R, N), from `training.evaluate.bootstrap.resample_identities`.

    Returns:
        ``yes`` and ``no``: ``faces``, and for each metric its mean and ``METRIC_interval``.
        ``difference``: yes minus no, likewise. None where a metric is not defined.
    """
    others = [column for column in range(labels.shape[1]) if column != by]
    cuts = [thresholds[column] for column in others]
    members = [labels[:, by] == value for value in (0, 1)]
    scores, resampled = [], []
    for rows in members:
        subgroup = labels[np.ix_(rows, others)], probabilities[np.ix_(rows, others)], cuts
        values = [list(each.values()) for each in score_attributes(*subgroup)]
        scores.append(np.array(values, np.float64).reshape(len(others), len(METRICS)))
        resampled.append(resample_attributes(*subgroup, weights[:, rows]))
    defined = ~np.isnan(scores[0]) & ~np.isnan(scores[1])
    means = [mean_over_attributes(each[None], defined)[0] for each in scores]
    resampled_means = [mean_over_attributes(each, defined) for each in resampled]
    subgroups: dict[str, Any] = {
        name: {
            "faces": int(members[value].sum()),
            **_with_intervals(means[value], resampled_means[value], difference=False),
        }
        for value, name in enumerate(("no", "yes"))
    }
    difference = _with_intervals(
        means[1] - means[0], resampled_means[1] - resampled_means[0], difference=True
    )
    return {**subgroups, "difference": difference}


def _with_intervals(
    means: NDArray[np.float64], resampled: NDArray[np.float64], difference: bool
) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    for column, (name, metric) in enumerate(METRICS.items()):
        value = None if np.isnan(means[column]) else float(means[column])
        bounds = metric.difference_bounds if difference else metric.bounds
        entry[name] = None if value is None else round(value, 4)
        entry[f"{name}_interval"] = confidence_interval(resampled[:, column], value, bounds)
    return entry
