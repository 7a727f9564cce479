"""From probabilities on the test faces to metrics with confidence intervals, by attribute and subgroup.

The intervals come from the bootstrap over identities: a resample draws identities with replacement rather
than faces, because photos of one person are not independent. All metrics of all runs are computed on the same
resamples, so differences are paired. Row 0 of all that is computed on resamples is the estimate, of which
every face is a part once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from common.config import Evaluate
from training.data.samples import Samples
from training.evaluate.metrics import BINS, METRICS, Floats, bin_of, score
from training.evaluate.results import Entry, by_labels
from training.evaluate.thresholds import DEFAULT

# The name of the baseline that predicts each attribute's share among the train faces for every face.
MAJORITY: Final = "majority class"


@dataclass(frozen=True)
class RunScores:
    """The metrics of one run on the test faces."""

    # Over the attributes for which a metric is defined, float64 (1 + R, M), the estimates and the same on
    # every resample; paired between runs.
    means: Floats
    attributes: dict[str, dict[str, Any]]  # by attribute the ``threshold``, and what `estimates` returns
    subgroups: dict[str, Any]  # by attribute of ``evaluate.subgroups``, see `compare_subgroups`; or empty
    reliability: list[dict[str, float]]  # see `reliability`

    @property
    def mean_scores(self) -> dict[str, float | None]:
        """The mean of every metric, None where it is not defined."""
        values = zip(METRICS, self.means[0].tolist(), strict=True)
        return {name: None if np.isnan(value) else value for name, value in values}


class Evaluator:
    """Computes the metrics of several runs on the same test faces and the same resamples of them.

    Args:
        settings: resamples and subgroups. A subgroup whose attribute the test faces lack is left out with a
            notice.
        train: the labelled train faces. Attributes that none of them has cannot be learnt; they are left out
            of all means, with a notice.
    """

    def __init__(self, test: Samples, settings: Evaluate, train: Samples) -> None:
        self._test, names, self._subgroups = test, test.attribute_names, settings.subgroups
        self._weights = resample_identities(test.identities, settings.resamples, seed=0)
        if missing := [name for name in settings.subgroups if name not in names]:
            print(f"evaluate: no subgroups by {', '.join(missing)}, because the faces have no such attribute")
        self._counted = (train.attributes == 1).any(axis=0) | (len(train) == 0)
        if absent := [name for name, counts in zip(names, self._counted, strict=True) if not counts]:
            print(f"evaluate: no face in train has {', '.join(absent)}, so the means are without it")

    def score(self, probabilities: Floats, thresholds: Sequence[float] | None) -> RunScores:
        """The metrics of one run.

        Args:
            probabilities: float64 (N, A) of the test faces.
            thresholds: one per attribute; None for a baseline, which gets the default threshold
                and no subgroups.
        """
        labels, names = self._test.attributes, self._test.attribute_names
        cuts = [DEFAULT] * len(names) if thresholds is None else thresholds
        values = score(labels, probabilities, cuts, self._weights)
        attributes: dict[str, dict[str, Any]] = {}
        subgroups = {}
        for column, name in enumerate(names):
            threshold = {} if thresholds is None else {"threshold": thresholds[column]}
            attributes[name] = threshold | estimates(values[:, column])
            if thresholds is not None and name in self._subgroups:
                given = (labels, probabilities, cuts, column)
                subgroups[name] = compare_subgroups(*given, self._weights, self._counted)
        means, curve = mean_over_attributes(values[:, self._counted]), reliability(labels, probabilities)
        return RunScores(means, attributes, subgroups, curve)


def resample_identities(identities: Sequence[str | None], resamples: int, seed: int) -> NDArray[np.float64]:
    """How often each face occurs in each resample; a face of unknown identity is an identity of its own.

    Returns:
        float64 (1 + R, N) of whole numbers, ones in row 0; equal arguments give equal numbers.
    """
    names = [f"\0{i}" if identity is None else identity for i, identity in enumerate(identities)]
    people, person = np.unique(np.array(names, dtype=np.str_), return_inverse=True)
    count = len(people)
    times = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples)
    return np.vstack([np.ones(len(names)), times[:, person]])


def confidence_interval(values: NDArray[np.float64], bounds: tuple[float, float]) -> list[float] | None:
    """The 95 % confidence interval [low, high] of an estimate.

    The 2.5th and 97.5th percentile of the resamples, shifted by the difference between the estimate and
    the mean of the resamples. A resample repeats faces, which alone raises average precision and
    calibration error, so plain percentiles would leave the estimate out.

    Args:
        values: float64 (1 + R,), the estimate and the value on every resample; NaN is left out.
        bounds: the least and greatest possible value, to which the interval is clipped.

    Returns:
        Both ends rounded to four decimals; None without an estimate or without any other value.
    """
    known = values[1:][~np.isnan(values[1:])]
    if np.isnan(values[0]) or not len(known):
        return None
    ends = np.percentile(known, [2.5, 97.5]) - known.mean() + values[0]
    return [round(float(end), 4) for end in ends.clip(*bounds)]


def mean_over_attributes(values: Floats) -> Floats:
    """The mean over the attributes for which a metric is defined, float64 (1 + R, M), of (1 + R, A, M).

    NaN where there is no such attribute; the estimate in row 0 has four decimals, as it is shown.
    """
    known = ~np.isnan(values)
    count = known.sum(axis=1)
    means = np.where(count > 0, np.where(known, values, 0.0).sum(axis=1) / np.maximum(count, 1), np.nan)
    means[0] = means[0].round(4)
    return means


def estimates(values: Floats, difference: bool = False) -> dict[str, Any]:
    """``METRIC`` with four decimals and ``METRIC_interval`` of every metric; None where it is not defined.

    The values are float64 (1 + R, M); those of a `difference` of two may be negative.
    """
    entry, bounds = dict[str, Any](), (-1.0 if difference else 0.0, 1.0)
    for column, name in enumerate(METRICS):
        entry[name] = None if np.isnan(values[0, column]) else round(float(values[0, column]), 4)
        entry[f"{name}_interval"] = confidence_interval(values[:, column], bounds)
    return entry


def compare_subgroups(
    labels: NDArray[np.int8],
    probabilities: Floats,
    thresholds: Sequence[float],
    by: int,
    weights: Floats,
    counted: NDArray[np.bool_],
) -> dict[str, Any]:
    """Mean metrics of the faces with and without one attribute, and their difference.

    The mean of a metric is over the attributes for which it is defined in both subgroups, so that both
    means are comparable; the attribute that defines the subgroups is left out.

    Args:
        labels: int8 (N, A), 0 or 1, -1 where unknown.
        probabilities: float64 (N, A), 0 to 1.
        thresholds: one per attribute, the same for both subgroups.
        by: column of the attribute that defines the subgroups; faces without its label are left out.
        weights: float64 (1 + R, N), from `resample_identities`.
        counted: bool (A,), the attributes that the means are over.

    Returns:
        ``no`` and ``yes``: ``faces``, and what `estimates` returns. ``difference``: yes minus no.
    """
    members = [labels[:, by] == value for value in (0, 1)]
    columns = np.flatnonzero(counted & (np.arange(len(counted)) != by))
    labels, probabilities = labels[:, columns], probabilities[:, columns]
    cuts = np.asarray(thresholds)[columns].tolist()
    values = [score(labels[rows], probabilities[rows], cuts, weights[:, rows]) for rows in members]
    defined = ~np.isnan(values[0][0] + values[1][0])
    no, yes = (mean_over_attributes(np.where(defined, each, np.nan)) for each in values)
    return {
        "no": {"faces": int(members[0].sum()), **estimates(no)},
        "yes": {"faces": int(members[1].sum()), **estimates(yes)},
        "difference": estimates(yes - no, difference=True),
    }


def reliability(labels: NDArray[np.int8], probabilities: Floats) -> list[dict[str, float]]:
    """The reliability curve of all attributes together, from labels and probabilities, both (N, A).

    Returns:
        For each of `BINS` bins with known labels its mean probability (``predicted``), the share of positive
        labels (``observed``), both with four decimals, and its ``count``.
    """
    known = labels >= 0
    bins = bin_of(probabilities[known])
    weights = (probabilities[known], labels[known], None)
    sums = [np.bincount(bins, each, BINS).tolist() for each in weights]
    return [
        {"predicted": round(a / count, 4), "observed": round(b / count, 4), "count": int(count)}
        for a, b, count in zip(*sums, strict=True)
        if count
    ]


def uncertainty(scores: Mapping[str, RunScores], runs: Sequence[Entry]) -> dict[str, Any]:
    """The content of ``intervals.json``, by run name.

    The first of the `runs`, entries of ``runs.json``, with the same labels is the reference of the others.

    Returns:
        ``means``: the interval of each mean. ``gains``: for each metric the ``value`` and ``interval`` of
        the mean minus that of the reference; empty without one. ``gaps``: the subgroups. ``reliability``.
    """
    reference = {run["name"]: group[0]["name"] for group in by_labels(runs) for run in group[1:]}
    content = {}
    for name, each in scores.items():
        means, gains = estimates(each.means), {}
        if name in reference:
            change = estimates(each.means - scores[reference[name]].means, difference=True)
            known = [metric for metric in METRICS if change[metric] is not None]
            gains = {key: {"value": change[key], "interval": change[f"{key}_interval"]} for key in known}
        intervals = {metric: means[f"{metric}_interval"] for metric in METRICS}
        curve = {"gaps": each.subgroups, "reliability": each.reliability}
        content[name] = {"means": intervals, "gains": gains, **curve}
    return content
