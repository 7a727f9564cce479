"""Whether the predictions can be trusted: calibration, subgroups, and where the network looks."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from common.page.figures import SMALL, SOFT, colour, figure
from common.page.formats import capitalized, count
from common.page.images import data_uri
from training.evaluate.metrics import METRICS
from training.report.initialisations import colours, title
from training.report.runs import Evaluation, Run


@dataclass(frozen=True)
class Reliability:
    """The reliability curve of one run, and its expected calibration error."""

    title: str
    error: float | None
    svg: Markup


@dataclass(frozen=True)
class SubgroupTable:
    """Metrics of the test faces with an attribute and of those without it.

    Attributes:
        attribute: its name. positive, negative: how many faces have it, and have it not.
        runs: by title of a run, rows of metric, value with, value without, difference, interval or None,
            and whether the interval leaves out zero.
    """

    attribute: str
    positive: int
    negative: int
    runs: dict[str, list[tuple[str, float | None, float | None, float | None, Sequence[float] | None, bool]]]


@dataclass(frozen=True)
class AttributionMap:
    """Where a branch looks for an attribute: an image as a ``data:`` address."""

    attribute: str
    branch: str
    image: str


def reliability_figures(evaluation: Evaluation) -> list[Reliability]:
    """The reliability curve of the best run with each number of labels."""
    number_of = colours([run.initial for run in evaluation.runs])
    return [
        Reliability(
            _title(run),
            run.means.get("calibration_error"),
            figure(
                lambda axes, run=run: _draw_reliability(  # type: ignore[misc]
                    axes, run.reliability, colour(number_of[run.initial])
                ),
                f"Reliability of {run.name}",
                (SMALL[0], SMALL[0] * 0.8),
            ),
        )
        for run in evaluation.best_runs()
        if run.reliability
    ]


def _draw_reliability(axes: Axes, rows: Sequence[Any], shade: str) -> None:
    axes.plot([0, 100], [0, 100], color=SOFT, linewidth=0.7)
    axes.plot([100 * row["predicted"] for row in rows], [100 * row["observed"] for row in rows], color=shade)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g} %")
    axes.set(xlim=(0, 100), ylim=(0, 100), xticks=[0, 50, 100], yticks=[0, 50, 100])
    axes.set_xlabel("predicted probability")
    axes.set_ylabel("observed frequency")


def subgroup_tables(evaluation: Evaluation) -> list[SubgroupTable]:
    """A table per subgroup attribute, of the best run with each number of labels."""
    best = evaluation.best_runs()
    tables = []
    for attribute in dict.fromkeys(name for run in best for name in run.subgroups):
        runs = {_title(run): run.subgroups[attribute] for run in best if attribute in run.subgroups}
        sizes = next(iter(runs.values()))
        rows = {title: _subgroup_rows(values) for title, values in runs.items()}
        tables.append(SubgroupTable(attribute, sizes["yes"]["faces"], sizes["no"]["faces"], rows))
    return tables


def _subgroup_rows(values: Any) -> list[Any]:
    rows = []
    for name, metric in METRICS.items():
        positive, negative = values["yes"].get(name), values["no"].get(name)
        interval = values["difference"].get(f"{name}_interval")
        clear = bool(interval) and (interval[0] > 0 or interval[1] < 0)
        if positive is not None or negative is not None:
            difference = values["difference"].get(name)
            rows.append((capitalized(metric.title), positive, negative, difference, interval, clear))
    return rows


def _title(run: Run) -> str:
    return f"{count(run.faces, 'labelled face')}, {title(run.initial)}"


def read_maps(folder: Path) -> list[AttributionMap]:
    """The images that ``maps.json`` of `training.explain` lists; none without that file."""
    if not (folder / "maps.json").is_file():
        return []
    entries = json.loads((folder / "maps.json").read_text(encoding="utf-8"))["attributes"]
    return [
        AttributionMap(entry["name"], entry["branch"], data_uri((folder / entry["file"]).read_bytes(), "png"))
        for entry in entries
        if (folder / entry["file"]).is_file()
    ]
