"""What the study says about the claims of the method.

A claim is that one arm scores better than another with as many labels. Runs of the same draw see the same
faces, so differences are paired by draw; their mean is compared with its standard error. A claim **holds** if
the mean lies more than `ERRORS` standard errors above zero, **fails** if it lies as far below, and is
**undecided** otherwise or with a single draw.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from common.config import Study
from training.evaluate.metrics import METRICS, Metric
from training.study.grid import Arm, arms
from training.study.results import StudyResults

ERRORS: Final = 3.0
"""With three draws, so two degrees of freedom, chance alone goes beyond it on one side one time in twenty
(Student's t: 2.92)."""


@dataclass(frozen=True)
class Claim:
    """That the arm `better` beats the best of the `others` with each amount of labels."""

    text: str
    better: Arm
    others: Sequence[Arm]


def claims(settings: Study) -> list[Claim]:
    """Each arm beats the first one, and the best of all before it; more tasks beat some of them."""
    every = arms(settings)
    titles = {arm: arm.title(settings) for arm in every}
    result = []
    for number, arm in enumerate(every[1:], start=1):
        result.append(Claim(f"{titles[arm]} beats {titles[every[0]]}", arm, every[:1]))
        if number > 1:
            result.append(Claim(f"{titles[arm]} beats the best of the methods above", arm, every[:number]))
        tasks = {name: frozenset(each) for name, each in settings.pretrainings.items()}
        mine = tasks.get(arm.pretraining or "", frozenset())
        parts = [
            other
            for other in every
            if other.method is arm.method and other.pretraining and tasks[other.pretraining] < mine
        ]
        if parts:
            listed = ", ".join(titles[other] for other in parts)
            result.append(Claim(f"{titles[arm]} beats the best with fewer tasks: {listed}", arm, parts))
    return result


def verdicts(results: StudyResults) -> list[dict[str, Any]]:
    """A row per claim, amount of labels and headline metric that has runs.

    Keys: ``claim``, ``faces``, ``score`` (a metric's name), ``difference`` (the mean over draws of paired
    differences, positive if better), ``error`` (its standard error; None for one draw), ``verdict``.
    """
    rows = []
    for claim in claims(results.settings):
        for faces in results.faces:
            for metric in headline_metrics():
                other = _best_of(results, claim.others, faces, metric)
                gains = _gains(results, claim.better, other, faces, metric)
                rows += _rows(claim.text, faces, metric, list(gains.values()))
    return rows + _shrinking_gains(results)


def headline_metrics() -> list[Metric]:
    """The metrics by which claims are judged."""
    return [metric for metric in METRICS.values() if metric.headline]


def _rows(claim: str, faces: int, metric: Metric, differences: Sequence[float]) -> list[dict[str, Any]]:
    if not differences:
        return []
    mean, count = statistics.fmean(differences), len(differences)
    error = statistics.stdev(differences) / count**0.5 if count > 1 else None
    verdict = "holds" if mean > 0 else "fails"
    if error is None or abs(mean) <= ERRORS * error:
        verdict = "undecided"
    row = {"claim": claim, "faces": faces, "score": metric.name}
    return [{**row, "difference": mean, "error": error, "verdict": verdict}]


def _shrinking_gains(results: StudyResults) -> list[dict[str, Any]]:
    """Rows of the claim that pre-training gains more over the first arm with few labels than with many."""
    first, *others = results.arms
    low, high = results.faces[0], results.faces[-1]
    rows = []
    for arm in others if low < high else ():
        if not arm.pretraining:
            continue
        titles = [each.title(results.settings) for each in (arm, first)]
        more = f"with {results.amount(low)} labelled faces than with {results.amount(high)}"
        for metric in headline_metrics():
            few, many = (_gains(results, arm, first, faces, metric) for faces in (low, high))
            rows += _rows(
                f"The gain of {titles[0]} over {titles[1]} is larger {more}",
                low,
                metric,
                [few[draw] - many[draw] for draw in few if draw in many],
            )
    return rows


def _best_of(results: StudyResults, candidates: Sequence[Arm], faces: int, metric: Metric) -> Arm:
    """The arm with the best mean; the first if none has a score."""

    def mean(arm: Arm) -> float:
        summary = results.summary(arm, faces, metric.name)
        return _sign(metric) * summary.mean if summary else -math.inf

    return max(candidates, key=mean)


def _gains(results: StudyResults, better: Arm, other: Arm, faces: int, metric: Metric) -> dict[int, float]:
    """By how much `better` beats `other`, by the draws that both have."""
    mine, theirs = (results.by_draw(arm, faces, metric.name) for arm in (better, other))
    return {draw: _sign(metric) * (mine[draw] - theirs[draw]) for draw in mine if draw in theirs}


def _sign(metric: Metric) -> int:
    return 1 if metric.higher_is_better else -1
