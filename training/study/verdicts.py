"""What the study says about the claims of the paper, and about the targets that were set for it.

A claim is that one initialisation scores higher than another with as many labels. Cells of the same
seed see the same faces, so differences are taken per seed; their mean is compared with its standard
error. A claim **holds** if the mean lies more than `ERRORS` standard errors above zero, it **fails**
if it lies more than that below, and is **undecided** otherwise or with a single seed.
"""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from common.page.formats import percent, signed
from training.study.grid import SCRATCH, SEMI, title
from training.study.table import SHOWN, Study

ERRORS: Final = 3.0
"""With three seeds, so two degrees of freedom, chance alone goes beyond it on one side one time in twenty
(Student's t: 2.92)."""

SINGLE: Final = ("rotation", "segmentation", "classification")
SCORES: Final = ("average_precision", "balanced_accuracy", "accuracy")


@dataclass(frozen=True)
class Difference:
    """The mean over seeds of paired differences of a score, as a share, and its standard error."""

    mean: float
    error: float | None

    @property
    def verdict(self) -> str:
        """``holds``, ``fails`` or ``undecided``."""
        if self.error is None or abs(self.mean) <= ERRORS * self.error:
            return "undecided"
        return "holds" if self.mean > 0 else "fails"

    def __str__(self) -> str:
        spread = "" if self.error is None else f" ± {100 * self.error:.1f}"
        return f"{signed(self.mean)}{spread}"


@dataclass(frozen=True)
class Target:
    """What was asked for: `better` above `worse` by `points` at a share of the labels."""

    better: str
    worse: str
    labels: float
    score: str
    points: float


TARGETS: Final = (
    Target("full", SCRATCH, 0.01, "balanced_accuracy", 5),
    Target("full", SCRATCH, 0.01, "average_precision", 10),
    Target("full", SCRATCH, 0.05, "balanced_accuracy", 4),
    Target("full", SCRATCH, 0.05, "average_precision", 8),
    Target("full", SCRATCH, 0.2, "balanced_accuracy", 0),
    Target("full", SCRATCH, 0.2, "average_precision", 0),
    *(Target(task, SCRATCH, 0.01, score, 0) for task in SINGLE for score in SCORES[:2]),
    Target("best", "full", 0.01, "average_precision", 1),
    Target("best", "full", 0.05, "average_precision", 1),
)
"""On CelebA's test split; ``best`` is the best semi-supervised mode at that share."""


def difference(study: Study, better: str, worse: str, labels: float, score: str) -> Difference | None:
    """How much `better` scores above `worse`; None if they have no seed in common."""
    first, second = study.by_seed(better, labels, score), study.by_seed(worse, labels, score)
    return _mean([first[seed] - second[seed] for seed in first if seed in second])


def best_of(study: Study, names: list[str], labels: float, score: str) -> str | None:
    """The name with the highest mean; None if none has a score."""
    found = {name: each.mean for name in names if (each := study.summary(name, labels, score))}
    return max(found, key=found.__getitem__) if found else None


def verdicts(study: Study) -> list[dict[str, Any]]:
    """A row per claim, share and score that has cells.

    Keys: ``claim``, ``labels``, ``score``, ``difference``, ``error``, ``verdict``.
    """
    rows = []
    for claim, better, worse in _claims():
        for labels in study.labels:
            for score in SCORES:
                rival = worse or best_of(study, list(SINGLE), labels, score)
                found = difference(study, better, rival, labels, score) if rival else None
                if found:
                    rows.append(_as_row(claim, labels, score, found))
    low, high = study.labels[0], study.labels[-1]
    for score in SCORES if low != high else ():
        gains = [_gains(study, labels, score) for labels in (low, high)]
        shrinking = _mean([gains[0][seed] - gains[1][seed] for seed in gains[0] if seed in gains[1]])
        if shrinking:
            claim = (
                f"The gain of SSPL is larger with {100 * low:g} % of the labels than with {100 * high:g} %"
            )
            rows.append(_as_row(claim, low, score, shrinking))
    return rows


def reached(study: Study) -> list[dict[str, Any]]:
    """A row per target that has cells: ``target``, ``points``, ``measured`` (mean, in points), ``met``."""
    rows = []
    semi = [name for name in study.initials if name.startswith(SEMI)]
    for target in TARGETS:
        best = best_of(study, semi, target.labels, target.score)
        better = best if target.better == "best" else target.better
        found = difference(study, better, target.worse, target.labels, target.score) if better else None
        if better and found:
            pair = f"{title(better)} above {title(target.worse)}"
            what = f"{pair}, {SHOWN[target.score]}, {100 * target.labels:g} % of the labels"
            measured = 100 * found.mean
            met = measured > 0 and measured >= target.points
            rows.append({"target": what, "points": target.points, "measured": str(found), "met": met})
    return rows


def as_markdown(study: Study) -> str:
    """The verdicts in words and tables, then the targets."""
    lines = [
        "# Claims of the paper",
        "",
        "Differences in points: mean over seeds ± standard error, of cells with the same seed and labels. "
        f"A claim holds if the mean is more than {ERRORS:g} standard errors above zero, fails if it is so "
        "far below, and is undecided otherwise.",
    ]
    claims: dict[str, list[Mapping[str, Any]]] = {}
    for row in verdicts(study):
        claims.setdefault(row["claim"], []).append(row)
    for claim, rows in claims.items():
        lines += ["", f"## {claim}", "", f"**{_in_words(rows)}** (judged by mean average precision)", ""]
        lines += [
            f"| labels | {' | '.join(SHOWN[score] for score in SCORES)} |",
            "|--:|" + "---|" * len(SCORES),
        ]
        for labels in dict.fromkeys(row["labels"] for row in rows):
            here = {row["score"]: row for row in rows if row["labels"] == labels}
            texts = [
                f"{Difference(here[s]['difference'], here[s]['error'])}, {here[s]['verdict']}"
                if s in here
                else percent(None)
                for s in SCORES
            ]
            lines.append(f"| {100 * labels:g} % | {' | '.join(texts)} |")
    targets = reached(study)
    if targets:
        lines += ["", "# Targets", "", "| target | points | measured | met |", "|---|--:|--:|---|"]
        for row in targets:
            wanted = f"at least {row['points']:g}" if row["points"] else "above 0"
            lines.append(
                f"| {row['target']} | {wanted} | {row['measured']} | {'yes' if row['met'] else 'no'} |"
            )
    return "\n".join(lines) + "\n"


def _claims() -> list[tuple[str, str, str | None]]:
    """Claim, better and worse initialisation; None is the best single task at that share."""
    return [
        ("Pre-training on unlabelled faces helps: SSPL beats training from scratch", "full", SCRATCH),
        *(
            (f"One task alone helps: {title(name)} beats training from scratch", name, SCRATCH)
            for name in SINGLE
        ),
        ("The tasks complement each other: all three beat the best one", "joint", None),
        ("Adversarial agreement of local and global features helps", "full", "joint"),
    ]


def _gains(study: Study, labels: float, score: str) -> dict[int, float]:
    full, scratch = study.by_seed("full", labels, score), study.by_seed(SCRATCH, labels, score)
    return {seed: full[seed] - scratch[seed] for seed in full if seed in scratch}


def _mean(values: list[float]) -> Difference | None:
    if not values:
        return None
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
    return Difference(statistics.fmean(values), error)


def _as_row(claim: str, labels: float, score: str, found: Difference) -> dict[str, Any]:
    return {
        "claim": claim,
        "labels": labels,
        "score": score,
        "difference": found.mean,
        "error": found.error,
        "verdict": found.verdict,
    }


def _in_words(rows: list[Mapping[str, Any]]) -> str:
    judged = [row for row in rows if row["score"] == SCORES[0]]
    groups = {
        verdict: [f"{100 * row['labels']:g} %" for row in judged if row["verdict"] == verdict]
        for verdict in ("holds", "fails", "undecided")
    }
    parts = [f"{verdict} at {', '.join(shares)}" for verdict, shares in groups.items() if shares]
    return "; ".join(parts).capitalize()
