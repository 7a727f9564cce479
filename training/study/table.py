"""The study's results: all cells in one file, means and deviations over seeds, one table."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from common.config import Config
from common.errors import UserError
from common.files import write_text
from common.page.formats import percent
from training.study.grid import cell_file, cells, initials, title

SHOWN: Final = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "average_precision": "mean average precision",
    "roc_auc": "ROC AUC",
}
"""The scores of the table, by name; ``study.json`` has all."""


@dataclass(frozen=True)
class Summary:
    """A score of the cells that differ in their seed alone.

    Attributes:
        mean: over the seeds.
        deviation: of the sample, with n - 1; None for a single seed.
        seeds: how many.
    """

    mean: float
    deviation: float | None
    seeds: int

    def __str__(self) -> str:
        spread = "" if self.deviation is None else f" ± {100 * self.deviation:.1f}"
        return f"{100 * self.mean:.1f}{spread}"


@dataclass(frozen=True)
class Study:
    """The cells that are done.

    Attributes:
        cells: what `training.study.work.run_cell` wrote, in the order of the grid.
        initials, labels: initialisations of the grid; shares that have a cell, in rising order.
        missing: how many cells of the grid are not done.
    """

    cells: Sequence[Mapping[str, Any]]
    initials: Sequence[str]
    labels: Sequence[float]
    missing: int

    def by_seed(self, initial: str, labels: float, score: str) -> dict[int, float]:
        """A score of one initialisation and share by seed."""
        return {
            cell["seed"]: cell["scores"][score]
            for cell in self.cells
            if (cell["initial"], cell["labels"]) == (initial, labels)
            and cell["scores"].get(score) is not None
        }

    def summary(self, initial: str, labels: float, score: str) -> Summary | None:
        """Mean and deviation of a score over the seeds; None without any."""
        values = list(self.by_seed(initial, labels, score).values())
        if not values:
            return None
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return Summary(statistics.fmean(values), deviation, len(values))

    def faces(self, labels: float) -> int:
        """Labelled faces of a share."""
        return next(int(cell["faces"]) for cell in self.cells if cell["labels"] == labels)


def read_study(config: Config, root: Path) -> Study:
    """The cells of the configured grid that are done.

    Raises:
        UserError: none is.
    """
    grid = cells(config)
    files = [file for cell in grid if (file := cell_file(root, cell)).is_file()]
    if not files:
        raise UserError(f"{root / 'cells'} has no finished cell; `make study` runs them")
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    labels = sorted({cell["labels"] for cell in found})
    return Study(found, initials(config), labels, len(grid) - len(files))


def as_json(study: Study) -> dict[str, Any]:
    """Cells without their scores by attribute, and means and deviations, for other tools and pages."""
    names = ("initial", "labels", "faces", "seed", "steps", "seconds", "scores")
    rows = []
    for labels in study.labels:
        for initial in study.initials:
            found = {score: study.summary(initial, labels, score) for score in study.cells[0]["scores"]}
            known = {score: each for score, each in found.items() if each is not None}
            if known:
                rows.append(
                    {
                        "initial": initial,
                        "title": title(initial),
                        "labels": labels,
                        "faces": study.faces(labels),
                        "seeds": max(each.seeds for each in known.values()),
                        "scores": {
                            score: {"mean": each.mean, "deviation": each.deviation}
                            for score, each in known.items()
                        },
                    }
                )
    return {
        "missing": study.missing,
        "majority": study.cells[0]["majority"],
        "cells": [{name: cell[name] for name in names} for cell in study.cells],
        "summary": rows,
    }


def as_markdown(study: Study) -> str:
    """The table: a row per share and initialisation, percent, mean and deviation over seeds."""
    lines = [
        f"| labels | start | {' | '.join(SHOWN.values())} |",
        f"|---|---|{'--:|' * len(SHOWN)}",
        _row("", "majority class", [percent(study.cells[0]["majority"].get(score)) for score in SHOWN]),
    ]
    for labels in study.labels:
        first = f"{study.faces(labels):,} ({100 * labels:g} %)"
        for initial in study.initials:
            found = [study.summary(initial, labels, score) for score in SHOWN]
            if any(found):
                lines.append(
                    _row(first, title(initial), [str(each) if each else percent(None) for each in found])
                )
                first = ""
    return "\n".join([*lines, "", _note(study)]) + "\n"


def write_metrics(study: Study, file: Path) -> None:
    """Means by initialisation and share, for ``dvc metrics``."""
    means = {
        initial: {
            f"{100 * labels:g}%": {
                score: round(each.mean, 4)
                for score in ("balanced_accuracy", "average_precision")
                if (each := study.summary(initial, labels, score))
            }
            for labels in study.labels
        }
        for initial in study.initials
    }
    write_text(file, json.dumps(means, indent=2) + "\n")


def _row(first: str, name: str, values: Sequence[str]) -> str:
    return f"| {first} | {name} | {' | '.join(values)} |"


def _note(study: Study) -> str:
    seeds = sorted({cell["seed"] for cell in study.cells})
    note = (
        f"Percent on the test split, thresholds from val; mean ± standard deviation over {len(seeds)} seeds."
    )
    return note + (f" {study.missing} cells are not done." if study.missing else "")
