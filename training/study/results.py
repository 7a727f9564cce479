"""The results of the study: what its finished draws scored, as data, tables and a plot."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tabulate import tabulate

from common.errors import UserError
from common.files import replacing, write_text
from common.page.figures import MARKERS, SOFT, STYLE, colour
from training.evaluate.metrics import METRICS, Metric
from training.evaluate.results import read_json, read_runs
from training.evaluate.scoring import MAJORITY

MISSING: Final = "\u2013"  # Stands for a metric that is not defined
SPREAD: Final = 0.012  # Share of the axis by which neighbouring lines are shifted: no error bar hides another


@dataclass(frozen=True)
class StudyResults:
    """The draws that are done."""

    # entries of ``runs.json`` of all draws, with ``draw`` and ``scores``, the means by metric
    runs: Sequence[Mapping[str, Any]]
    faces: Sequence[int]  # numbers of labelled faces, ascending
    titles: Mapping[str, str]  # of the methods, by name, in their order
    majority: Mapping[str, float | None]  # means of the majority class by metric
    missing: int  # number of draws that are not done

    def scores(self, method: str, faces: int, metric: str) -> dict[int, float]:
        """A metric of one method with so many labelled faces, by draw."""
        return {
            run["draw"]: run["scores"][metric]
            for run in self.runs
            if (run["method"], run["faces"]) == (method, faces) and run["scores"].get(metric) is not None
        }

    def amount(self, faces: int) -> str:
        """So many labelled faces in words, with the share or the list that they are."""
        labels = next(run["labels"] for run in self.runs if run["faces"] == faces)
        share = Path(labels).stem if isinstance(labels, str) else f"{100 * labels:g} %"
        return f"{faces:,} ({share})"

    def summary(self) -> list[dict[str, Any]]:
        """A row per amount of labels and method.

        Keys: ``method``, ``title``, ``faces``, ``seeds`` (how many draws), ``scores`` by metric: ``mean`` and
        ``deviation``, the sample standard deviation; ``gains`` over the first method, by metric: ``mean`` of
        the differences of the same draws, and its standard ``error``. Both spreads are None for one draw.
        """
        rows, first = [], next(iter(self.titles))
        for faces, (method, title) in product(self.faces, self.titles.items()):
            scores, gains, seeds = {}, {}, 0
            for metric in METRICS:
                values = self.scores(method, faces, metric)
                reference = self.scores(first, faces, metric)
                pairs = [values[draw] - reference[draw] for draw in values.keys() & reference.keys()]
                if values:
                    mean, deviation = _mean(list(values.values()))
                    scores[metric], seeds = {"mean": mean, "deviation": deviation}, len(values)
                if pairs and method != first:
                    mean, deviation = _mean(pairs)
                    error = None if deviation is None else deviation / math.sqrt(len(pairs))
                    gains[metric] = {"mean": mean, "error": error}
            if scores:
                row = {"method": method, "title": title, "faces": faces, "seeds": seeds}
                rows.append({**row, "scores": scores, "gains": gains})
        return rows


def draw_folder(root: Path, draw: int) -> Path:
    """The folder of the results of one draw, as ``training.run`` writes them."""
    return root / f"draw{draw}"


def read_results(draws: int, root: Path) -> StudyResults:
    """The draws that are done, of so many in the study's folder `root`.

    Raises:
        UserError: none is.
    """
    runs, majority, missing = list[Mapping[str, Any]](), dict[str, float | None](), draws
    for draw in range(draws):
        folder = draw_folder(root, draw)
        if (folder / "evaluate" / "metrics.json").is_file():
            means = read_json(folder / "evaluate" / "metrics.json")
            missing, majority = missing - 1, means.get(MAJORITY, {})
            entries = [run for run in read_runs(folder / "finetune") if run["name"] in means]
            runs += [{"draw": draw, **run, "scores": means[run["name"]]} for run in entries]
    if not runs:
        what = "no finished draw with labelled faces; `python -m training.study` makes them"
        raise UserError(f"{root} has {what}")
    titles = {run["method"]: run["title"] for run in runs}
    return StudyResults(runs, sorted({run["faces"] for run in runs}), titles, majority, missing)


def write_results(draws: int, root: Path) -> None:
    """Write ``study.json``, ``table.md`` and ``plot.svg``; print the tables.

    Raises:
        UserError: no draw is done.
    """
    results = read_results(draws, root)
    content = {"missing": results.missing, "majority": results.majority, "summary": results.summary()}
    write_text(root / "study.json", json.dumps({**content, "runs": results.runs}, indent=1) + "\n")
    write_text(root / "table.md", tables(results))
    plot(results, root / "plot.svg")
    print(tables(results), end="")


def tables(results: StudyResults) -> str:
    """Means by amount of labels and method, and gains over the first method, in percent, in Markdown."""
    headline, first = [metric for metric in METRICS.values() if metric.headline], next(iter(results.titles))
    majority = [results.majority.get(metric) for metric in METRICS]
    rows = [["", MAJORITY, *(MISSING if value is None else f"{100 * value:.1f}" for value in majority)]]
    gains, last = [], 0
    for row in results.summary():
        amount, last = "" if row["faces"] == last else results.amount(row["faces"]), row["faces"]
        rows.append([amount, row["title"], *(_cell(row["scores"].get(metric)) for metric in METRICS)])
        if row["method"] != first:
            cells = [_cell(row["gains"].get(metric.name), "+.1f") for metric in headline]
            gains.append([results.amount(row["faces"]), row["title"], *cells])
    missing = f" {results.missing} draws are not done." if results.missing else ""
    return (
        f"{_markdown(list(METRICS.values()), rows)}\n\n"
        "Percent on the test split, means over attributes, thresholds as `finetune.select` says; mean ± "
        f"standard deviation over {len({run['draw'] for run in results.runs})} draws.{missing}\n\n"
        f"{_markdown(headline, gains)}\n\n"
        f"Gain over “{results.titles[first]}” in points: mean of the differences of the same draw ± its "
        "standard error.\n"
    )


def plot(results: StudyResults, file: Path) -> None:
    """Draw a panel per headline metric: means over draws, error bars of one standard deviation."""
    metrics = [metric for metric in METRICS.values() if metric.headline]
    with rc_context({**STYLE, "font.size": 9}):
        figure = Figure(figsize=(4.5 * len(metrics), 4.2), layout="constrained")
        panels = figure.subplots(1, len(metrics), squeeze=False)[0]
        for axes, metric in zip(panels, metrics, strict=True):
            _panel(axes, results, metric)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
        with replacing(file) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})


def _panel(axes: Axes, results: StudyResults, metric: Metric) -> None:
    counts, summary = results.faces, results.summary()
    for number, (method, title) in enumerate(results.titles.items()):
        rows = [row for row in summary if row["method"] == method and metric.name in row["scores"]]
        points = [(row["faces"], row["scores"][metric.name]) for row in rows]
        shift = (counts[-1] / counts[0]) ** (SPREAD * (number - (len(results.titles) - 1) / 2))
        x, y = [count * shift for count, _ in points], [100 * score["mean"] for _, score in points]
        errors = [100 * (score["deviation"] or 0) for _, score in points]
        style: dict[str, Any] = {"markersize": 4, "capsize": 2, "marker": MARKERS[number % len(MARKERS)]}
        axes.errorbar(x, y, yerr=errors, label=title, color=colour(number), **style)
    if (majority := results.majority.get(metric.name)) is not None:
        axes.axhline(100 * majority, color=SOFT, linestyle=":", label=MAJORITY)
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks(counts, [results.amount(count).replace(" (", "\n(") for count in counts])
    axes.set_xlabel("labelled faces")
    axes.set_title(f"{metric.title}, %")


def _mean(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and the sample standard deviation (n - 1); None for a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def _cell(value: Mapping[str, float | None] | None, form: str = ".1f") -> str:
    mean, spread = value.values() if value else (None, None)
    text = MISSING if mean is None else f"{100 * mean:{form}}"
    return text if spread is None else f"{text} ± {100 * spread:.1f}"


def _markdown(metrics: Sequence[Metric], rows: list[list[str]]) -> str:
    """A Markdown table whose columns after the first two are aligned to the right."""
    heads = ["labels", "method", *(metric.title for metric in metrics)]
    alignment = ["left"] * 2 + ["right"] * len(metrics)
    return tabulate(rows, heads, tablefmt="pipe", colalign=alignment, disable_numparse=True)
