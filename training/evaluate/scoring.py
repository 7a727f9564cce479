"""From probabilities on the test faces to metrics with confidence intervals and subgroups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from common.config import Evaluate
from training.data.samples import Samples
from training.evaluate.bootstrap import (
    confidence_interval,
    mean_over_attributes,
    resample_attributes,
    resample_identities,
)
from training.evaluate.calibration import reliability
from training.evaluate.metrics import METRICS, Scores, mean_scores, score_attributes
from training.evaluate.subgroups import compare_subgroups
from training.evaluate.thresholds import DEFAULT

MAJORITY: Final = "majority class"
"""The name of the baseline that predicts each attribute's share among the train faces for every face."""

SCRATCH: Final = "scratch"
"""The initialisation that gains are measured against."""


@dataclass(frozen=True)
class RunScores:
    """The metrics of one run on the test faces.

    Attributes:
        means: by metric, over the attributes for which it is defined.
        attributes: by attribute the ``threshold``, and for each metric its value and ``METRIC_interval``.
        resampled_means: the means on every resample, float64 (R, M); paired between runs.
        subgroups: by attribute of ``evaluate.subgroups``, see `training.evaluate.subgroups`; empty for a
            baseline.
        reliability: rows of ``predicted``, ``observed`` and ``count`` over all attributes together.
    """

    means: Scores
    attributes: dict[str, dict[str, Any]]
    resampled_means: NDArray[np.float64]
    subgroups: dict[str, Any]
    reliability: list[dict[str, float]]


class Evaluator:
    """Computes the metrics of several runs on the same test faces and the same resamples of them.

    Args:
        test: the test faces.
        settings: resamples, seed and subgroups. A subgroup whose attribute the faces do not have is
            left out with a notice.
    """

    def __init__(self, test: Samples, settings: Evaluate) -> None:
        self._test = test
        self._weights = resample_identities(test.identities, settings.resamples, settings.seed)
        self._subgroups = {
            name: test.attribute_names.index(name)
            for name in settings.subgroups
            if name in test.attribute_names
        }
        if missing := [name for name in settings.subgroups if name not in self._subgroups]:
            print(f"evaluate: no subgroups by {', '.join(missing)}, because the faces have no such attribute")

    def score(self, probabilities: NDArray[np.float64], thresholds: Sequence[float] | None) -> RunScores:
        """The metrics of one run.

        Args:
            probabilities: float64 (N, A) of the test faces.
            thresholds: one per attribute, from val; None for a baseline, which gets the default threshold
                and no subgroups.
        """
        labels, names = self._test.attributes, self._test.attribute_names
        cuts = [DEFAULT] * len(names) if thresholds is None else thresholds
        scores = score_attributes(labels, probabilities, cuts)
        resampled = resample_attributes(labels, probabilities, cuts, self._weights)
        attributes: dict[str, dict[str, Any]] = {}
        for column, name in enumerate(names):
            attributes[name] = {} if thresholds is None else {"threshold": thresholds[column]}
            for position, metric in enumerate(METRICS.values()):
                value = scores[column][metric.name]
                interval = confidence_interval(resampled[:, column, position], value, metric.bounds)
                attributes[name] |= {metric.name: value, f"{metric.name}_interval": interval}
        defined = np.array([[value is not None for value in each.values()] for each in scores])
        subgroups = {
            name: compare_subgroups(labels, probabilities, cuts, column, self._weights)
            for name, column in self._subgroups.items()
            if thresholds is not None
        }
        return RunScores(
            mean_scores(scores),
            attributes,
            mean_over_attributes(resampled, defined),
            subgroups,
            _reliability_rows(labels, probabilities),
        )


def _reliability_rows(labels: NDArray[np.int8], probabilities: NDArray[np.float64]) -> list[dict[str, float]]:
    known = labels >= 0
    curve = reliability(labels[known], probabilities[known])
    return [
        {"predicted": round(float(predicted), 4), "observed": round(float(observed), 4), "count": int(count)}
        for predicted, observed, count in zip(*curve, strict=True)
    ]


def uncertainty(scores: Mapping[str, RunScores], runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The content of ``intervals.json``, by run name.

    Args:
        scores: by run name.
        runs: entries of ``runs.json``.

    Returns:
        ``means``: the interval of each mean. ``gains``: for each metric the ``value`` and ``interval`` of
        the mean minus that of the run from scratch with the same labels; empty without such a run.
        ``gaps``: the subgroups. ``reliability`` as in `RunScores`.
    """
    scratch = {str(run["labels"]): run["name"] for run in runs if run["initial"] == SCRATCH}
    baselines = {run["name"]: scratch.get(str(run["labels"])) for run in runs if run["initial"] != SCRATCH}
    return {
        name: {
            "means": {
                metric.name: confidence_interval(
                    each.resampled_means[:, column], each.means[metric.name], metric.bounds
                )
                for column, metric in enumerate(METRICS.values())
            },
            "gains": _gains(each, baseline) if (baseline := scores.get(baselines.get(name) or "")) else {},
            "gaps": each.subgroups,
            "reliability": each.reliability,
        }
        for name, each in scores.items()
    }


def _gains(run: RunScores, baseline: RunScores) -> dict[str, Any]:
    gains = {}
    for column, metric in enumerate(METRICS.values()):
        after, before = run.means[metric.name], baseline.means[metric.name]
        if after is not None and before is not None:
            resampled = run.resampled_means[:, column] - baseline.resampled_means[:, column]
            gain = after - before
            interval = confidence_interval(resampled, gain, metric.difference_bounds)
            gains[metric.name] = {"value": round(gain, 4), "interval": interval}
    return gains
