"""The metrics of runs: in one table, against the number of labels, and by attribute."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from common.page.figures import MARKERS, SERIES, SOFT, colour, figure
from common.page.formats import NARROW, capitalized, percent, words
from training.evaluate.metrics import METRICS
from training.report.runs import MAIN, Evaluation, Run, challenger


def score_values(evaluation: Evaluation) -> dict[str, Any]:
    """What the templates of this section need beside the evaluation."""
    bars, undefined = attribute_bars(evaluation)
    return {
        "metrics": list(METRICS.values()),
        "main": METRICS[MAIN],
        "score_cells": score_cells,
        "labels_of": labels_of,
        "legend": lambda runs: [(f"series-{run.colour % len(SERIES)}", run.title) for run in runs],
        "challenger": challenger(evaluation.budgets[0]),
        "label_figures": label_figures(evaluation),
        "attribute_bars": bars,
        "undefined": undefined,
    }


def score_cells(run: Run, budget: Sequence[Run]) -> list[tuple[Any, Any, bool]]:
    """A mean per metric, its interval, and whether it is the best of the budget.

    None is the best unless some are worse at the precision that is shown.
    """
    cells = []
    for name, metric in METRICS.items():
        known = [value for other in budget if (value := other.means.get(name)) is not None]
        differ = len({percent(other.means.get(name)) for other in budget}) > 1 and bool(known)
        best = (max if metric.higher_is_better else min)(known) if differ else None
        value = run.means.get(name)
        cells.append((value, run.intervals.get(name), value is not None and value == best))
    return cells


def labels_of(run: Run) -> str:
    """Which labels a run had."""
    labels = run.entry["labels"]
    if isinstance(labels, str):
        return f"the list {labels}"
    return f"{100 * labels:g}{NARROW}% of the labelled train faces"


def label_figures(evaluation: Evaluation) -> dict[str, Markup]:
    """The headline metrics against the number of labels, by title; empty with one number of labels."""
    if len(evaluation.budgets) < 2:
        return {}
    return {
        (title := capitalized(metric.title)): figure(
            partial(_draw_by_labels, evaluation=evaluation, metric=metric.name),
            f"{title} by number of labelled faces",
        )
        for metric in METRICS.values()
        if metric.headline
    }


def _draw_by_labels(axes: Axes, evaluation: Evaluation, metric: str) -> None:
    for method in evaluation.methods:
        faces, values, below, above = [], [], [], []
        for run in evaluation.runs:
            if run.colour == method.colour and (value := run.means.get(metric)) is not None:
                low, high = run.intervals.get(metric) or (value, value)
                faces.append(run.faces)
                values.append(100 * value)
                below.append(100 * max(0.0, value - low))
                above.append(100 * max(0.0, high - value))
        style: dict[str, Any] = {"markersize": 4, "capsize": 2, "elinewidth": 0.8}
        style |= {"color": colour(method.colour), "marker": MARKERS[method.colour % len(MARKERS)]}
        axes.errorbar(faces, values, yerr=[below, above], **style)
    majority = evaluation.majority.means.get(metric)
    if majority is not None:
        axes.axhline(100 * majority, color=SOFT, linestyle="--", linewidth=0.9)
    ticks = sorted({run.faces for run in evaluation.runs})
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(ticks, [f"{number:,}" for number in ticks])
    axes.yaxis.set_major_formatter("{x:g} %")
    axes.margins(x=0.08, y=0.12)


def attribute_bars(evaluation: Evaluation) -> tuple[list[dict[str, Any]], list[str]]:
    """The attributes at the fewest labels, highest gain first, and the names of those without a metric.

    Of each attribute: ``name``; ``tooltip``, all values in words; ``bars``, (number of the colour, average
    precision) of each run; ``prevalence``, the share of positive test labels, which is the average
    precision of the majority class; ``gain`` over the reference, or else over the prevalence.
    """
    budget, other = evaluation.budgets[0], challenger(evaluation.budgets[0])
    bars, undefined = [], []
    for name, baseline in evaluation.majority.attributes.items():
        prevalence = baseline.get(MAIN)
        values = {run.title: run.attributes[name].get(MAIN) for run in budget}
        known = {title: value for title, value in values.items() if value is not None}
        if prevalence is None or len(known) < len(budget):
            undefined.append(name)
            continue
        base = known[budget[0].title] if other else prevalence
        shown = {**known, "prevalence": prevalence}
        bars.append(
            {
                "name": words(name),
                "tooltip": "; ".join(f"{title} {percent(value)}" for title, value in shown.items()),
                "bars": [(run.colour, known[run.title]) for run in budget],
                "prevalence": prevalence,
                "gain": known[(other or budget[0]).title] - base,
            }
        )
    return sorted(bars, key=lambda each: (-each["gain"], each["name"])), undefined
