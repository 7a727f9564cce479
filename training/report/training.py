"""How the networks came about: the curves of stage 1, whatever its tasks are, and what all stages cost."""

import csv
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from common.layout import Layout
from common.page.figures import SMALL, SOFT, colour, figure
from common.page.formats import capitalized, duration, percent, unit, words
from training.evaluate.results import read_json
from training.report.scores import Run

Curve = tuple[str, Markup, str]  # Title of a logged value, its figure over the steps, its last running mean


def read_pretraining(folder: Path) -> dict[str, Any] | None:
    """The content of ``metrics.json`` and two more entries; None if there was no pre-training.

    ``curves``: by title of a task, its `Curve`s, losses first; those of no task lead.
    ``metrics``: rows of metric, value on train, value on val, and chance level, in percent.
    """
    if not (folder / "metrics.json").is_file():
        return None
    results: dict[str, Any] = read_json(folder / "metrics.json", "pretrain")
    metrics, rows, titles = {}, [], {}
    for task in results["tasks"]:
        title, short = str(task["title"]), str(task["abbreviation"])
        titles[task["name"]] = title if short in title.lower() else f"{title} ({short})"
        for metric in task["metrics"]:
            metrics[key := f"{task['name']}/{metric['name']}"] = metric
            values = (*(results.get(split, {}).get(key) for split in ("train", "val")), metric["chance"])
            rows.append((f"{short}: {metric['title']}", *map(percent, values)))
    curves: dict[str, list[Curve]] = {title: [] for title in ("All tasks", *titles.values())}
    logged = folder / "dvclive" / "plots" / "metrics" / "pretrain"
    files = {str(file.relative_to(logged).with_suffix("")): file for file in sorted(logged.rglob("*.tsv"))}
    for key in sorted(files, key=lambda key: list(metrics).index(key) if key in metrics else -1):
        task, _, name = key.partition("/")
        title = metrics[key]["title"] if key in metrics else words(name if task in titles else key)
        if points := _points(files[key]):
            curve = _curve(title.replace("/", " "), points, metrics.get(key))
            curves[titles.get(task, "All tasks")].append(curve)
    return {**results, "metrics": rows, "curves": {title: each for title, each in curves.items() if each}}


def _points(file: Path) -> list[tuple[float, float]]:
    """(step, value) of a logged curve; broken lines and infinite values are left out."""
    with file.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.reader(stream, delimiter="\t") if len(row) == 2][1:]
    return [(float(step), float(value)) for step, value in rows if math.isfinite(float(value))]


def _curve(title: str, points: Sequence[tuple[float, float]], metric: Mapping[str, Any] | None) -> Curve:
    """A curve with its running mean; a metric is a share and has a line at its chance level."""
    title, scale = capitalized(title), 1.0 if metric is None else 100.0
    chance = metric["chance"] if metric else None
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


def cost_rows(layout: Layout, pretraining: dict[str, Any] | None, runs: Sequence[Run]) -> list[list[str]]:
    """Rows of stage, time, cores, core-hours, and their sum; a stage without a record is left out.

    Args:
        layout: the shards, whose ``stages.json`` has the records of the pipeline.
        pretraining: see `read_pretraining`.
    """
    path, cores = layout.manifests / "stages.json", len(os.sched_getaffinity(0))
    records = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    costs = [
        (f"{stage.capitalize()}, {record['images']:,} images", record["seconds"], record["workers"])
        for stage in ("ingest", "align", "parse")
        if (record := records.get(stage))
    ]
    costs += [("Pre-training", pretraining["seconds"], cores)] if pretraining else []
    costs += [(f"Fine-tuning, {run.name}", run.entry["seconds"], cores) for run in runs]
    rows = [
        [stage, duration(seconds), str(workers), f"{seconds * workers / 3600:.2f}"]
        for stage, seconds, workers in costs
    ]
    if len(rows) > 1:
        hours = sum(seconds * workers for _, seconds, workers in costs) / 3600
        rows.append(["Total", duration(sum(seconds for _, seconds, _ in costs)), "", f"{hours:.2f}"])
    return rows
