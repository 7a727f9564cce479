"""Stage 1, as its ``metrics.json`` and its log describe it; the page needs no list of tasks."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from numpy.typing import NDArray

from common.page.figures import SMALL, SOFT, colour, figure
from common.page.formats import capitalized, unit
from training.report.runs import read_json

Points = Sequence[tuple[float, float]]
"""(step, value) of a logged curve."""


@dataclass(frozen=True)
class Curve:
    """A logged value over the steps: its title, the last running mean as text, and the figure."""

    title: str
    last: str
    svg: Markup


@dataclass(frozen=True)
class TaskCurves:
    """The curves of one task, losses first; the total loss is a group of its own."""

    title: str
    curves: Sequence[Curve]


@dataclass(frozen=True)
class Pretraining:
    """Stage 1.

    Attributes:
        samples, steps, seconds: of the training. waiting: share of the time, None if unknown.
        batch_size: samples per step. cores: that it had, None if unknown.
        tasks: curves by task.
        metrics: rows of task, metric, value on train, value on val, chance level; None where unknown.
    """

    samples: int
    steps: int
    seconds: float
    waiting: float | None
    batch_size: int
    cores: int | None
    tasks: Sequence[TaskCurves]
    metrics: Sequence[tuple[str, str, float | None, float | None, float | None]]


def read_pretraining(folder: Path, batch_size: int) -> Pretraining | None:
    """Stage 1 from its folder; None if there was none."""
    if not (folder / "metrics.json").is_file():
        return None
    metrics = read_json(folder / "metrics.json", "pretrain")
    curves = _read_curves(folder / "dvclive" / "plots" / "metrics" / "pretrain")
    tasks: list[Mapping[str, Any]] = metrics.get("tasks", [])
    return Pretraining(
        samples=metrics["samples"],
        steps=metrics["steps"],
        seconds=metrics["seconds"],
        waiting=metrics.get("waiting"),
        batch_size=batch_size,
        cores=metrics.get("threads"),
        tasks=_task_curves(tasks, curves),
        metrics=[
            (
                task["abbreviation"],
                metric["title"],
                metrics["train"].get(f"{task['name']}/{metric['name']}"),
                metrics["val"].get(f"{task['name']}/{metric['name']}"),
                metric["chance"],
            )
            for task in tasks
            for metric in task["metrics"]
        ],
    )


def _read_curves(folder: Path) -> dict[str, Points]:
    """DVCLive's curves by key, such as ``rotation/loss``; broken lines and infinite values are left out."""
    curves: dict[str, Points] = {}
    for file in sorted(folder.rglob("*.tsv")):
        with file.open(encoding="utf-8", newline="") as stream:
            rows = [row for row in csv.reader(stream, delimiter="\t") if len(row) == 2][1:]
        points = [(float(step), float(value)) for step, value in rows]
        points = [point for point in points if math.isfinite(point[1])]
        if points:
            curves[file.relative_to(folder).with_suffix("").as_posix()] = points
    return curves


def _task_curves(tasks: Sequence[Mapping[str, Any]], curves: Mapping[str, Points]) -> list[TaskCurves]:
    names = {task["name"] for task in tasks}
    general = [
        _curve(key.replace("/", " "), points, None)
        for key, points in curves.items()
        if key.partition("/")[0] not in names
    ]
    groups = [TaskCurves("All tasks", general)] if general else []
    for task in tasks:
        metrics = {f"{task['name']}/{metric['name']}": metric for metric in task["metrics"]}
        losses = [key for key in curves if key.startswith(f"{task['name']}/") and key not in metrics]
        group = [_curve(_loss_title(key), curves[key], None) for key in losses]
        group += [
            _curve(metric["title"], curves[key], metric) for key, metric in metrics.items() if key in curves
        ]
        if group:
            groups.append(TaskCurves(f"{task['title']} ({task['abbreviation']})", group))
    return groups


def _loss_title(key: str) -> str:
    return key.partition("/")[2].replace("_", " ").replace("/", " ")


def _curve(title: str, points: Points, metric: Mapping[str, Any] | None) -> Curve:
    """A curve with its running mean; a metric is a share and has a line at its chance level."""
    scale = 1.0 if metric is None else 100.0
    chance = metric["chance"] if metric else None
    steps = np.array([step for step, _ in points])
    values = np.array([value for _, value in points])
    mean = _running_mean(values, max(1, 2 * (len(values) // 30) + 1))

    def draw(axes: Axes) -> None:
        axes.plot(steps, scale * values, color=SOFT, linewidth=0.5, alpha=0.6)
        axes.plot(steps, scale * mean, color=colour(1))
        if chance is not None:
            axes.axhline(scale * chance, color=SOFT, linestyle="--", linewidth=0.8)
        axes.set_xticks([steps[0], steps[-1]], [f"{steps[0]:,.0f}", f"{steps[-1]:,.0f}"])
        axes.locator_params(axis="y", nbins=4)
        if metric is not None:
            axes.yaxis.set_major_formatter("{x:g} %")

    last = f"{mean[-1]:.3f}" if metric is None else unit(float(mean[-1]))
    label = f"{capitalized(title)} over {steps[-1]:,.0f} steps"
    return Curve(capitalized(title), last, figure(draw, label, SMALL))


def _running_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """The centred running mean over `window` values; fewer at both ends."""
    kernel = np.ones(min(window, len(values)))
    counts = np.convolve(np.ones(len(values)), kernel, "same")
    return np.convolve(values, kernel, "same") / counts
