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
    first, tasks = every[0], {name: frozenset(each) for name, each in settings.pretrainings.items()}
    result = []
    for number, arm in enumerate(every[1:], start=1):
        title = arm.title(settings)
        result.append(Claim(f"{title} beats {first.title(settings)}", arm, [first]))
        if number > 1:
            result.append(Claim(f"{title} beats the best of the methods above", arm, every[:number]))
        mine = tasks.get(arm.pretraining or "", frozenset())
        same = [other for other in every if other.method is arm.method and other.pretraining]
        if parts := [other for other in same if tasks[other.pretraining or ""] < mine]:
            listed = ", ".join(other.title(settings) for other in parts)
            result.append(Claim(f"{title} beats the best with fewer tasks: {listed}", arm, parts))
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
                gains = _gains(results, claim, faces, metric)
                if not gains:
                    continue
                mean, count = statistics.fmean(gains), len(gains)
                error = statistics.stdev(gains) / count**0.5 if count > 1 else None
                verdict = "holds" if mean > 0 else "fails"
                if error is None or abs(mean) <= ERRORS * error:
                    verdict = "undecided"
                row = {"claim": claim.text, "faces": faces, "score": metric.name}
                rows.append({**row, "difference": mean, "error": error, "verdict": verdict})
    return rows


def headline_metrics() -> list[Metric]:
    """The metrics by which claims are judged."""
    return [metric for metric in METRICS.values() if metric.headline]


def _gains(results: StudyResults, claim: Claim, faces: int, metric: Metric) -> list[float]:
    """By how much the claim's arm beats the best of the others, by the draws that both have."""
    sign = 1 if metric.higher_is_better else -1

    def mean(arm: Arm) -> float:
        summary = results.summary(arm, faces, metric.name)
        return sign * summary.mean if summary else -math.inf

    best = max(claim.others, key=mean)
    mine, theirs = (results.by_draw(arm, faces, metric.name) for arm in (claim.better, best))
    return [sign * (mine[draw] - theirs[draw]) for draw in mine if draw in theirs]
