"""From probabilities on the test faces to scores with intervals, gaps between groups, and plots."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from common.config import Evaluate
from common.files import write_text
from training.data.samples import Samples
from training.evaluate.bootstrap import DIFFERENCE, draw, interval, mean_of, resample
from training.evaluate.metrics import SCORES, all_scores, mean_scores, reliability
from training.evaluate.subgroups import gap

MAJORITY: Final = "majority class"
"""The name of the baseline that gives every face the share of yes among the train faces."""

SCRATCH: Final = "scratch"
"""The initialisation that gains are measured against."""


@dataclass(frozen=True)
class Scored:
    """One run on the test faces.

    Attributes:
        means: by score, over the attributes that have it.
        attributes: by attribute the ``threshold``, and per score the value and ``SCORE_interval``.
        drawn: means on every resample, float64 (R, len(SCORES)); paired between runs.
        gaps: by attribute of ``evaluate.groups`` what `training.evaluate.subgroups.gap` returns;
            empty for a baseline.
        reliability: rows ``predicted``, ``observed``, ``count`` over all attributes together.
    """

    means: dict[str, float | None]
    attributes: dict[str, dict[str, Any]]
    drawn: NDArray[np.float64]
    gaps: dict[str, Any]
    reliability: list[dict[str, float]]


class Judge:
    """Scores runs on the same test faces and the same resamples of them.

    Args:
        test: the faces; those of one identity are drawn together.
        settings: resamples, seed, groups. A group that is no attribute here is said and left out.
    """

    def __init__(self, test: Samples, settings: Evaluate) -> None:
        self._test = test
        self._draws = draw(test.identities, settings.resamples, settings.seed)
        self._groups = {
            name: test.attribute_names.index(name) for name in settings.groups if name in test.attribute_names
        }
        if missing := [name for name in settings.groups if name not in self._groups]:
            print(f"evaluate: no gaps by {', '.join(missing)}, for the faces have no such attribute")

    def score(self, probabilities: NDArray[np.float64], cut: Sequence[float] | None) -> Scored:
        """Score one run.

        Args:
            probabilities: float (N, A) of the test faces.
            cut: thresholds from val, one per attribute; None for a baseline, which answers by 0.5 and
                has no gaps.
        """
        labels, names = self._test.attributes, self._test.attribute_names
        at = [0.5] * len(names) if cut is None else cut
        found = all_scores(labels, probabilities, at)
        drawn = resample(labels, probabilities, at, self._draws)
        attributes: dict[str, dict[str, Any]] = {}
        for column, name in enumerate(names):
            attributes[name] = {} if cut is None else {"threshold": cut[column]}
            for position, score in enumerate(SCORES):
                value = found[column][score]
                edges = interval(drawn[:, column, position], value)
                attributes[name] |= {score: value, f"{score}_interval": edges}
        scored = np.array([[each[score] is not None for score in SCORES] for each in found])
        gaps = {
            name: gap(labels, probabilities, at, column, self._draws)
            for name, column in self._groups.items()
            if cut is not None
        }
        known = labels >= 0
        columns = reliability(labels[known], probabilities[known])
        rows = [
            {"predicted": round(float(p), 4), "observed": round(float(o), 4), "count": int(n)}
            for p, o, n in zip(*columns, strict=True)
        ]
        return Scored(mean_scores(found), attributes, mean_of(drawn, scored), gaps, rows)


def intervals(scored: Mapping[str, Scored], runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What is uncertain about the means, by run name.

    Args:
        scored: by run name.
        runs: entries of ``runs.json``.

    Returns:
        ``means``: [low, high] by score. ``gains``: what the mean is above that of the run from scratch
        with the same labels, by score ``value`` and ``interval``; empty where there is none. ``gaps``
        and ``reliability`` as in `Scored`.
    """
    scratch = {str(run["labels"]): run["name"] for run in runs if run["initial"] == SCRATCH}
    base = {run["name"]: scratch.get(str(run["labels"])) for run in runs if run["initial"] != SCRATCH}
    found = {}
    for name, each in scored.items():
        other = scored.get(base.get(name) or "")
        found[name] = {
            "means": {score: interval(each.drawn[:, i], each.means[score]) for i, score in enumerate(SCORES)},
            "gains": _gains(each, other) if other else {},
            "gaps": each.gaps,
            "reliability": each.reliability,
        }
    return found


def _gains(run: Scored, base: Scored) -> dict[str, Any]:
    found = {}
    for position, score in enumerate(SCORES):
        after, before = run.means[score], base.means[score]
        if after is not None and before is not None:
            drawn = run.drawn[:, position] - base.drawn[:, position]
            gain = after - before
            found[score] = {"value": round(gain, 4), "interval": interval(drawn, gain, DIFFERENCE)}
    return found


def write_plots(folder: Path, runs: Sequence[Mapping[str, Any]], scored: Mapping[str, Scored]) -> None:
    """Write ``labels.csv``, ``attributes.csv`` and ``calibration.json`` for ``dvc plots``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(
        folder / "labels.csv",
        _csv(
            ["start", "faces", *SCORES],
            [[run["initial"], run["faces"], *scored[run["name"]].means.values()] for run in runs],
        ),
    )
    write_text(
        folder / "attributes.csv",
        _csv(
            ["run", "attribute", *SCORES],
            [
                [run, attribute, *(values[score] for score in SCORES)]
                for run, each in scored.items()
                for attribute, values in each.attributes.items()
            ],
        ),
    )
    rows = [{"run": run["name"], **row} for run in runs for row in scored[run["name"]].reliability]
    write_text(folder / "calibration.json", json.dumps(rows, indent=1) + "\n")


def _csv(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([heads, *rows])
    return text.getvalue()
