"""Stage 1, as its ``metrics.json`` and its log describe it; the page needs no list of tasks."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from common.page.figures import SMALL, SOFT, colour, figure
from common.page.formats import capitalized, unit
from training.report.runs import read_json

Points = Sequence[tuple[float, float]]
"""(step, value) of a logged curve."""

Curve = tuple[str, Markup, str]
"""The title of a logged value, its figure over the steps, and its last running mean."""


def read_pretraining(folder: Path) -> dict[str, Any] | None:
    """The content of ``metrics.json`` and two more entries; None if there was no pre-training.

    ``curves``: by title of a task, its `Curve`s, losses first; those of no task lead.
    ``metrics``: rows of metric, value on train, value on val, and chance level; None where unknown.
    """
    if not (folder / "metrics.json").is_file():
        return None
    results: dict[str, Any] = read_json(folder / "metrics.json", "pretrain")
    rows = [
        (
            f"{task['abbreviation']}: {metric['title']}",
            *(results.get(split, {}).get(f"{task['name']}/{metric['name']}") for split in ("train", "val")),
            metric["chance"],
        )
        for task in results["tasks"]
        for metric in task["metrics"]
    ]
    curves = _read_curves(folder / "dvclive" / "plots" / "metrics" / "pretrain")
    return {**results, "metrics": rows, "curves": _curves_by_task(results["tasks"], curves)}


def _read_curves(folder: Path) -> dict[str, Points]:
    """DVCLive's curves by key, such as ``rotation/loss``; broken lines and infinite values are left out."""
    curves: dict[str, Points] = {}
    for file in sorted(folder.rglob("*.tsv")):
        with file.open(encoding="utf-8", newline="") as stream:
            rows = [row for row in csv.reader(stream, delimiter="\t") if len(row) == 2][1:]
        points = [(float(step), float(value)) for step, value in rows if math.isfinite(float(value))]
        if points:
            curves[file.relative_to(folder).with_suffix("").as_posix()] = points
    return curves


def _curves_by_task(
    tasks: Sequence[Mapping[str, Any]], curves: Mapping[str, Points]
) -> dict[str, list[Curve]]:
    titles = {task["name"]: _heading(task) for task in tasks}
    metrics = {f"{task['name']}/{metric['name']}": metric for task in tasks for metric in task["metrics"]}
    losses = [key for key in curves if key not in metrics]
    groups: dict[str, list[Curve]] = {title: [] for title in ("All tasks", *titles.values())}
    for key in [*losses, *(key for key in metrics if key in curves)]:
        task, _, name = key.partition("/")
        title = metrics[key]["title"] if key in metrics else (name if task in titles else key)
        groups[titles.get(task, "All tasks")].append(_curve(title, curves[key], metrics.get(key)))
    return {title: group for title, group in groups.items() if group}


def _heading(task: Mapping[str, Any]) -> str:
    """A task's title, with its abbreviation unless that is a word of the title."""
    title, abbreviation = str(task["title"]), str(task["abbreviation"])
    return title if abbreviation in title.lower() else f"{title} ({abbreviation})"


def _curve(title: str, points: Points, metric: Mapping[str, Any] | None) -> Curve:
    """A curve with its running mean; a metric is a share and has a line at its chance level."""
    scale = 1.0 if metric is None else 100.0
    chance = metric["chance"] if metric else None
    title = capitalized(title.replace("_", " ").replace("/", " ") if metric is None else title)
    steps, values = np.array(points).T
    # The centred running mean, over fewer values at both ends.
    kernel = np.ones(min(2 * (len(values) // 30) + 1, len(values)))
    mean = np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")

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
    return title, figure(draw, f"{title} over {steps[-1]:,.0f} steps", SMALL), last
