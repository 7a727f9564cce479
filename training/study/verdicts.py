"""What the study says about the claims of the method.

A claim is that one initialisation scores better than another with as many labels. Cells of the same seed
see the same faces, so differences are paired by seed; their mean is compared with its standard error. A
claim **holds** if the mean lies more than `ERRORS` standard errors above zero, **fails** if it lies as far
below, and is **undecided** otherwise or with a single seed.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from common.config import Study
from training.evaluate.metrics import METRICS, PRIMARY, Metric
from training.study.grid import SCRATCH, SEMI, STUDENT
from training.study.results import StudyResults, title
from training.study.table import MISSING, markdown

ERRORS: Final = 3.0
"""With three seeds, so two degrees of freedom, chance alone goes beyond it on one side one time in twenty
(Student's t: 2.92)."""


@dataclass(frozen=True)
class Claim:
    """That the initialisation `better` beats the best of the `others` at each label share."""

    text: str
    better: str
    others: Sequence[str]


def claims(settings: Study) -> list[Claim]:
    """Each pre-training beats scratch, and the best of those with some of its tasks; pseudo-labels help."""
    tasks = {name: frozenset(each) for name, each in settings.pretrainings.items()}
    titles = {name: title(settings, name) for name in tasks}
    result = [
        Claim(f"Pre-training by {titles[name]} beats training from scratch", name, [SCRATCH])
        for name in tasks
    ]
    for name in tasks:
        parts = [other for other in tasks if tasks[other] < tasks[name]]
        largest = [other for other in parts if not any(tasks[other] < tasks[third] for third in parts)]
        if largest:
            best = "the best of " if len(largest) > 1 else ""
            others = ", ".join(titles[other] for other in largest)
            result.append(Claim(f"{titles[name]} beats {best}{others}", name, largest))
    result += [
        Claim(f"Pseudo-labels of unlabelled faces improve on {titles[name]} alone", SEMI + name, [name])
        for name in settings.semi
    ]
    for name in settings.student:
        student = f"The region probe's student from {titles[name]}"
        result.append(Claim(f"{student} beats {titles[name]} alone", STUDENT + name, [name]))
        if "region_probe" in settings.baselines:
            result.append(Claim(f"{student} beats the region probe", STUDENT + name, ["region_probe"]))
    return result


def verdicts(results: StudyResults) -> list[dict[str, Any]]:
    """A row per claim, label share and headline metric that has cells.

    Keys: ``claim``, ``labels``, ``score`` (a metric's name), ``difference`` (the mean over seeds of paired
    differences, positive if better), ``error`` (its standard error; None for one seed), ``verdict``.
    """
    rows = []
    for claim in claims(results.settings):
        for labels in results.labels:
            for metric in _headline():
                other = _best_of(results, claim.others, labels, metric)
                gains = _gains(results, claim.better, other, labels, metric)
                rows += _rows(claim.text, labels, metric, list(gains.values()))
    return rows + _shrinking_gains(results)


def _rows(claim: str, labels: float, metric: Metric, differences: Sequence[float]) -> list[dict[str, Any]]:
    """The row of a claim, from the differences by seed; nothing without any."""
    if not differences:
        return []
    mean, count = statistics.fmean(differences), len(differences)
    error = statistics.stdev(differences) / count**0.5 if count > 1 else None
    verdict = "holds" if mean > 0 else "fails"
    if error is None or abs(mean) <= ERRORS * error:
        verdict = "undecided"
    row = {"claim": claim, "labels": labels, "score": metric.name}
    return [{**row, "difference": mean, "error": error, "verdict": verdict}]


def _shrinking_gains(results: StudyResults) -> list[dict[str, Any]]:
    """Rows of the claim that pre-training by most tasks gains more with few labels than with many."""
    tasks, low, high = results.settings.pretrainings, results.labels[0], results.labels[-1]
    if low == high or not tasks:
        return []
    name = max(tasks, key=lambda name: len(tasks[name]))
    shares = f"with {100 * low:g} % of the labels than with {100 * high:g} %"
    claim = f"The gain of {results.title(name)} over training from scratch is larger {shares}"
    rows = []
    for metric in _headline():
        few, many = (_gains(results, name, SCRATCH, labels, metric) for labels in (low, high))
        rows += _rows(claim, low, metric, [few[seed] - many[seed] for seed in few if seed in many])
    return rows


def _best_of(results: StudyResults, names: Sequence[str], labels: float, metric: Metric) -> str:
    """The name with the best mean; the first if none has a score."""

    def mean(name: str) -> float:
        summary = results.summary(name, labels, metric.name)
        return _sign(metric) * summary.mean if summary else -math.inf

    return max(names, key=mean)


def _gains(results: StudyResults, better: str, other: str, labels: float, metric: Metric) -> dict[int, float]:
    """By how much `better` beats `other`, by the seeds that both have."""
    first, second = (results.by_seed(name, labels, metric.name) for name in (better, other))
    return {seed: _sign(metric) * (first[seed] - second[seed]) for seed in first if seed in second}


def _headline() -> list[Metric]:
    return [metric for metric in METRICS.values() if metric.headline]


def _sign(metric: Metric) -> int:
    return 1 if metric.higher_is_better else -1


def as_markdown(results: StudyResults) -> str:
    """The verdicts in words, and a table per claim."""
    rows = verdicts(results)
    text = [
        "# Claims of the method",
        "Differences in percentage points: mean over seeds ± standard error, of cells with the same seed and "
        f"labels. A claim holds if the mean is more than {ERRORS:g} standard errors above zero, fails if it "
        "is as far below, and is undecided otherwise.",
    ]
    for claim in dict.fromkeys(row["claim"] for row in rows):
        cells = {(row["labels"], row["score"]): row for row in rows if row["claim"] == claim}
        table = [
            [f"{100 * labels:g} %", *(_cell(cells.get((labels, metric.name))) for metric in _headline())]
            for labels in dict.fromkeys(labels for labels, _ in cells)
        ]
        text += [
            f"## {claim}",
            f"**{_in_words(cells.values())}** (judged by {METRICS[PRIMARY].title})",
            markdown(["labels", *(metric.title for metric in _headline())], table, text_columns=0),
        ]
    return "\n\n".join(text) + "\n"


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return MISSING
    spread = "" if row["error"] is None else f" ± {100 * row['error']:.1f}"
    return f"{100 * row['difference']:+.1f}{spread}, {row['verdict']}"


def _in_words(rows: Iterable[dict[str, Any]]) -> str:
    judged = [row for row in rows if row["score"] == PRIMARY]
    by_verdict = {
        verdict: [f"{100 * row['labels']:g} %" for row in judged if row["verdict"] == verdict]
        for verdict in ("holds", "fails", "undecided")
    }
    texts = [f"{verdict} at {', '.join(shares)}" for verdict, shares in by_verdict.items() if shares]
    return "; ".join(texts).capitalize()
