"""The metrics of runs: in one table, against the number of labels, and by attribute."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from common.page.figures import MARKERS, SERIES, SOFT, colour, figure
from common.page.formats import NARROW, capitalized, percent, words
from training.evaluate.metrics import METRICS, Metric
from training.report.runs import MAIN, Evaluation, Run


def score_values(evaluation: Evaluation) -> dict[str, Any]:
    """What the templates of this section need beside the evaluation."""
    bars, undefined = attribute_bars(evaluation)
    return {
        "metrics": list(METRICS.values()),
        "headline_metrics": [metric for metric in METRICS.values() if metric.headline],
        "main": METRICS[MAIN],
        "is_best": is_best,
        "labels_of": labels_of,
        "legend": lambda runs: [(f"series-{run.colour % len(SERIES)}", run.title) for run in runs],
        "label_figures": label_figures(evaluation),
        "attribute_bars": bars,
        "undefined": undefined,
    }


def is_best(run: Run, budget: Sequence[Run], metric: Metric) -> bool:
    """Whether a run has the best mean of those with the same labels, and some are worse as they are shown."""
    known = [value for other in budget if (value := other.means.get(metric.name)) is not None]
    if not known or len({percent(other.means.get(metric.name)) for other in budget}) < 2:
        return False
    return run.means.get(metric.name) == (max if metric.higher_is_better else min)(known)


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
        points = []
        for run in evaluation.runs:
            if run.colour == method.colour and (value := run.means.get(metric)) is not None:
                low, high = run.intervals.get(metric) or (value, value)
                points.append((run.faces, value, max(0.0, value - low), max(0.0, high - value)))
        if points:
            faces, values, below, above = zip(*points, strict=True)
            bars = [[100 * each for each in side] for side in (below, above)]
            style: dict[str, Any] = {"markersize": 4, "capsize": 2, "elinewidth": 0.8}
            style |= {"color": colour(method.colour), "marker": MARKERS[method.colour % len(MARKERS)]}
            axes.errorbar(faces, [100 * value for value in values], yerr=bars, **style)
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
    precision of the majority class; ``gain`` of the best classifier over it.
    """
    budget, best = evaluation.budgets[0], evaluation.best_runs[0]
    bars, undefined = [], []
    for name, baseline in evaluation.majority.attributes.items():
        prevalence, mine = baseline.get(MAIN), best.attributes[name].get(MAIN)
        if prevalence is None or mine is None:
            undefined.append(name)
            continue
        known = [(run, value) for run in budget if (value := run.attributes[name].get(MAIN)) is not None]
        shown = [f"{run.title} {percent(value)}" for run, value in known]
        bars.append(
            {
                "name": words(name),
                "tooltip": "; ".join([*shown, f"prevalence {percent(prevalence)}"]),
                "bars": [(run.colour, value) for run, value in known],
                "prevalence": prevalence,
                "gain": mine - prevalence,
            }
        )
    return sorted(bars, key=lambda each: (-each["gain"], each["name"])), undefined
