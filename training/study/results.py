"""The study's results: all finished cells, and their means and deviations over seeds."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config import Study
from common.errors import UserError
from training.evaluate.metrics import METRICS
from training.pretrain.tasks import TASKS
from training.study.grid import BASELINES, STUDENT, cell_file, cells, initialisations, pretraining_name


def title(settings: Study, initial: str) -> str:
    """What tables and plots call an initialisation: its pretext tasks' abbreviations, as ``PRT + PST``.

    If the study has several pre-trainings of the same tasks, their numbers of steps follow.
    """
    if initial in BASELINES:
        return BASELINES[initial]
    name = pretraining_name(initial)
    selected = settings.pretrainings[name]
    tasks = " + ".join(TASKS[task].abbreviation for task in selected)
    if list(settings.pretrainings.values()).count(selected) > 1:
        steps = settings.pretrain_steps.get(name)
        tasks += f", {steps:,} steps" if steps else f", {name}"
    if initial.startswith(STUDENT):
        return f"{tasks}, student of the region probe"
    return f"{tasks}, semi-supervised" if initial != name else tasks


@dataclass(frozen=True)
class Summary:
    """A metric over the cells that differ in their seed alone.

    Attributes:
        mean: over the seeds.
        deviation: sample standard deviation (n - 1); None for a single seed.
        seeds: how many.
    """

    mean: float
    deviation: float | None
    seeds: int

    def __str__(self) -> str:
        spread = "" if self.deviation is None else f" ± {100 * self.deviation:.1f}"
        return f"{100 * self.mean:.1f}{spread}"


@dataclass(frozen=True)
class StudyResults:
    """The cells that are done.

    Attributes:
        settings: the grid.
        cells: what `training.study.cell.run_cell` wrote, in the order of the grid.
        labels: shares that have a cell, in rising order.
        missing: number of cells of the grid that are not done.
    """

    settings: Study
    cells: Sequence[Mapping[str, Any]]
    labels: Sequence[float]
    missing: int

    @property
    def initialisations(self) -> list[str]:
        """All initialisations of the grid."""
        return initialisations(self.settings)

    def title(self, initial: str) -> str:
        """See `title`."""
        return title(self.settings, initial)

    def by_seed(self, initial: str, labels: float, metric: str) -> dict[int, float]:
        """A metric of one initialisation and label share, by seed."""
        return {
            cell["seed"]: cell["scores"][metric]
            for cell in self.cells
            if (cell["initial"], cell["labels"]) == (initial, labels)
            and cell["scores"].get(metric) is not None
        }

    def summary(self, initial: str, labels: float, metric: str) -> Summary | None:
        """Mean and deviation of a metric over the seeds; None without any."""
        values = list(self.by_seed(initial, labels, metric).values())
        if not values:
            return None
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return Summary(statistics.fmean(values), deviation, len(values))

    def faces(self, labels: float) -> int:
        """Number of labelled faces of a share."""
        return next(int(cell["faces"]) for cell in self.cells if cell["labels"] == labels)


def read_results(settings: Study, root: Path) -> StudyResults:
    """The cells of the grid that are done.

    Raises:
        UserError: none is.
    """
    grid = cells(settings)
    files = [file for cell in grid if (file := cell_file(root, cell)).is_file()]
    if not files:
        raise UserError(f"{root / 'cells'} has no finished cell; `make study` runs them")
    results = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    labels = sorted({result["labels"] for result in results})
    return StudyResults(settings, results, labels, len(grid) - len(files))


def as_json(results: StudyResults) -> dict[str, Any]:
    """Cells without their scores by attribute, and means and deviations, for other tools and pages.

    Keys: ``missing``, ``majority``, ``cells``, and ``summary``, a row per label share and initialisation.
    """
    names = ("initial", "labels", "faces", "seed", "steps", "seconds", "scores")
    rows = []
    for labels in results.labels:
        for initial in results.initialisations:
            summaries = {metric: results.summary(initial, labels, metric) for metric in METRICS}
            known = {metric: summary for metric, summary in summaries.items() if summary}
            if known:
                rows.append(
                    {
                        "initial": initial,
                        "title": results.title(initial),
                        "labels": labels,
                        "faces": results.faces(labels),
                        "seeds": max(summary.seeds for summary in known.values()),
                        "scores": {
                            metric: {"mean": summary.mean, "deviation": summary.deviation}
                            for metric, summary in known.items()
                        },
                    }
                )
    return {
        "missing": results.missing,
        "majority": results.cells[0]["majority"],
        "cells": [{name: cell[name] for name in names} for cell in results.cells],
        "summary": rows,
    }
