"""Whether the predictions can be trusted: calibration, subgroups, and where the network looks."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from common.page.figures import SMALL, SOFT, colour, figure
from common.page.formats import capitalized, count, unit
from common.page.images import data_uri
from training.evaluate.metrics import METRICS
from training.report.initialisations import colours, title
from training.report.runs import Evaluation, Run


def reliability_figures(evaluation: Evaluation) -> list[tuple[str, Markup, str]]:
    """(title, figure, expected calibration error) of the best run with each number of labels."""
    number_of = colours([run.initial for run in evaluation.runs])
    figures = []
    for run in evaluation.best_runs():
        error = run.means.get("calibration_error")
        draw = partial(_draw_reliability, rows=run.reliability, shade=colour(number_of[run.initial]))
        if run.reliability:
            svg = figure(draw, f"Reliability of {run.name}", (SMALL[0], SMALL[0] * 0.8))
            figures.append((_title(run), svg, "" if error is None else unit(error)))
    return figures


def _draw_reliability(axes: Axes, rows: Sequence[Any], shade: str) -> None:
    axes.plot([0, 100], [0, 100], color=SOFT, linewidth=0.7)
    axes.plot([100 * row["predicted"] for row in rows], [100 * row["observed"] for row in rows], color=shade)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g} %")
    axes.set(xlim=(0, 100), ylim=(0, 100), xticks=[0, 50, 100], yticks=[0, 50, 100])
    axes.set(xlabel="predicted probability", ylabel="observed frequency")


def subgroup_tables(evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    """By subgroup attribute, the metrics of the best run with each number of labels.

    Returns:
        ``positive`` and ``negative``, how many test faces have the attribute and have it not, and ``runs``,
        by title of a run, rows of metric, value with, value without, difference, and its interval or None.
    """
    best = evaluation.best_runs()
    tables = {}
    for attribute in dict.fromkeys(name for run in best for name in run.subgroups):
        runs = {_title(run): run.subgroups[attribute] for run in best if attribute in run.subgroups}
        sizes = next(iter(runs.values()))
        tables[attribute] = {
            "positive": sizes["yes"]["faces"],
            "negative": sizes["no"]["faces"],
            "runs": {title: _subgroup_rows(values) for title, values in runs.items()},
        }
    return tables


def _subgroup_rows(values: Any) -> list[tuple[Any, ...]]:
    rows = [
        (
            capitalized(metric.title),
            *(values[group].get(name) for group in ("yes", "no", "difference")),
            values["difference"].get(f"{name}_interval"),
        )
        for name, metric in METRICS.items()
    ]
    return [row for row in rows if row[1:3] != (None, None)]


def _title(run: Run) -> str:
    return f"{count(run.faces, 'labelled face')}, {title(run.initial)}"


def read_maps(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """By branch, the attributes and images that ``maps.json`` of `training.explain` lists, if it is there."""
    if not (folder / "maps.json").is_file():
        return {}
    maps: dict[str, list[tuple[str, str]]] = {}
    for entry in json.loads((folder / "maps.json").read_text(encoding="utf-8"))["attributes"]:
        if (file := folder / entry["file"]).is_file():
            maps.setdefault(entry["branch"], []).append((entry["name"], data_uri(file.read_bytes(), "png")))
    return maps
