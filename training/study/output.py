"""The files that are made of finished draws: data, table, plot, verdicts."""

import json
from itertools import product
from pathlib import Path
from typing import Any, Final

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from tabulate import tabulate

from common.config import Config
from common.files import replacing, write_text
from common.layout import Layout
from common.page.figures import MARKERS, SOFT, STYLE, colour
from training.evaluate.metrics import METRICS, Metric
from training.evaluate.scoring import MAJORITY
from training.study import verdicts
from training.study.draws import SCORES, draw_is_done
from training.study.grid import draw_folder
from training.study.results import StudyResults, read_results

MISSING: Final = "\u2013"
"""Stands for a metric that is not defined."""

SPREAD: Final = 0.012
"""Share of the axis by which neighbouring lines are shifted, so that no error bar hides another."""


def write_results(config: Config, layout: Layout, root: Path) -> None:
    """Write ``study.json``, ``table.md``, ``plot.svg`` and ``verdicts.md``; print the table.

    Draws that other shards, weights, settings or code made are kept with a notice.

    Raises:
        UserError: no draw is done.
    """
    results = read_results(config.study, root)
    judged = verdicts.verdicts(results)
    write_text(root / "study.json", json.dumps({**as_json(results), "verdicts": judged}, indent=1) + "\n")
    write_text(root / "table.md", table(results))
    write_text(root / "verdicts.md", verdict_text(judged))
    plot(results, root / "plot.svg")
    print(table(results), end="")
    stale = sum(
        (draw_folder(root, arm, draw) / SCORES).is_file()
        and not draw_is_done(config, layout, root, arm, draw)
        for arm, draw in product(results.arms, range(config.study.draws))
    )
    if stale:
        print(f"study: {stale} of these draws are stale; `python -m training.study` repeats them")


def as_json(results: StudyResults) -> dict[str, Any]:
    """Runs without their scores by attribute, and means and deviations, for other tools and pages.

    Keys: ``missing``, ``majority``, ``runs``, and ``summary``, a row per amount of labels and arm.
    """
    names = ("arm", "draw", "labels", "faces", "seed", "steps", "seconds", "scores")
    rows = []
    for faces, arm in product(results.faces, results.arms):
        summaries = {metric: results.summary(arm, faces, metric) for metric in METRICS}
        scores = {
            metric: {"mean": summary.mean, "deviation": summary.deviation}
            for metric, summary in summaries.items()
            if summary
        }
        if scores:
            draws = max(summary.draws for summary in summaries.values() if summary)
            row = {"arm": str(arm), "title": arm.title(results.settings), "faces": faces}
            rows.append({**row, "seeds": draws, "scores": scores})
    return {
        "missing": results.missing,
        "majority": results.majority,
        "runs": [{name: run[name] for name in names} for run in results.runs],
        "summary": rows,
    }


def table(results: StudyResults) -> str:
    """A row per amount of labels and arm, in percent, mean and deviation over draws, in Markdown."""
    majority = [results.majority.get(metric) for metric in METRICS]
    rows = [["", MAJORITY, *(MISSING if value is None else f"{100 * value:.1f}" for value in majority)]]
    for faces in results.faces:
        amount = results.amount(faces)
        for arm in results.arms:
            summaries = [results.summary(arm, faces, metric) for metric in METRICS]
            if any(summaries):
                texts = (str(each or MISSING) for each in summaries)
                rows.append([amount, arm.title(results.settings), *texts])
                amount = ""
    note = (
        "Percent on the test split, means over attributes, thresholds as `finetune.select` says; "
        f"mean ± standard deviation over {len({run['draw'] for run in results.runs})} draws."
    )
    note += f" {results.missing} draws are not done." if results.missing else ""
    heads = ["labels", "method", *(metric.title for metric in METRICS.values())]
    return f"{_markdown(heads, rows)}\n\n{note}\n"


def verdict_text(rows: list[dict[str, Any]]) -> str:
    """Verdicts as a table in Markdown: a row per claim and amount of labels."""
    metrics = verdicts.headline_metrics()
    cells = {(row["claim"], row["faces"], row["score"]): row for row in rows}
    lines = []
    for claim, faces in dict.fromkeys((row["claim"], row["faces"]) for row in rows):
        each = [cells.get((claim, faces, metric.name)) for metric in metrics]
        lines.append([claim, f"{faces:,}", *(MISSING if row is None else _cell(row) for row in each)])
    note = (
        "Differences in percentage points: mean over draws ± standard error, of runs with the same draw and "
        f"labels. A claim holds if the mean is more than {verdicts.ERRORS:g} standard errors above zero, "
        "fails if it is as far below, and is undecided otherwise."
    )
    return f"{_markdown(['claim', 'labels', *(metric.title for metric in metrics)], lines)}\n\n{note}\n"


def _cell(row: dict[str, Any]) -> str:
    spread = "" if row["error"] is None else f" ± {100 * row['error']:.1f}"
    return f"{100 * row['difference']:+.1f}{spread}, {row['verdict']}"


def _markdown(heads: list[str], rows: list[list[str]]) -> str:
    """A Markdown table whose columns after the first two are aligned to the right."""
    alignment = ["left"] * 2 + ["right"] * (len(heads) - 2)
    return tabulate(rows, heads, tablefmt="pipe", colalign=alignment, disable_numparse=True)


def plot(results: StudyResults, file: Path) -> None:
    """Draw a panel per headline metric: means over draws, error bars of one standard deviation."""
    metrics = verdicts.headline_metrics()
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
    counts, names = results.faces, results.arms
    span = counts[-1] / counts[0]
    for number, arm in enumerate(names):
        summaries = {count: results.summary(arm, count, metric.name) for count in counts}
        points = [(count, summary) for count, summary in summaries.items() if summary]
        if not points:
            continue
        shift = span ** (SPREAD * (number - (len(names) - 1) / 2))
        axes.errorbar(
            [count * shift for count, _ in points],
            [100 * summary.mean for _, summary in points],
            yerr=[100 * (summary.deviation or 0) for _, summary in points],
            label=arm.title(results.settings),
            color=colour(number),
            marker=MARKERS[number % len(MARKERS)],
            markersize=4,
            capsize=2,
        )
    majority = results.majority.get(metric.name)
    if majority is not None:
        axes.axhline(100 * majority, color=SOFT, linestyle=":", label=MAJORITY)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(counts))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(counts, [results.amount(count).replace(" (", "\n(") for count in counts])
    axes.set_xlabel("labelled faces")
    axes.set_title(f"{metric.title}, %")
