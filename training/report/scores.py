"""The metrics of runs: in one table, against the number of labels, and by attribute."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from common.page.figures import MARKERS, SOFT, colour, figure
from common.page.formats import NARROW, capitalized, percent, words
from training.evaluate.metrics import METRICS, Metric
from training.evaluate.scoring import SCRATCH
from training.report.initialisations import colours, title
from training.report.runs import MAIN, Evaluation, Run, challenger


def score_cells(run: Run, budget: Mapping[str, Run]) -> list[tuple[Any, Any, bool]]:
    """A mean per metric, its interval, and whether it is the best of the budget where there is a choice."""
    return [
        (run.means.get(name), run.intervals.get(name), _is_best(run, budget, metric))
        for name, metric in METRICS.items()
    ]


def _is_best(run: Run, budget: Mapping[str, Run], metric: Metric) -> bool:
    """Whether no run of the budget is better, and some are worse at the precision that is shown."""
    values = [other.means.get(metric.name) for other in budget.values()]
    known = [value for value in values if value is not None]
    if len({percent(value) for value in values}) < 2 or not known:
        return False
    return run.means.get(metric.name) == (max(known) if metric.higher_is_better else min(known))


def labels_of(run: Run) -> str:
    """Which labels a run had."""
    if isinstance(run.labels, str):
        return f"the list {run.labels}"
    return f"{100 * run.labels:g}{NARROW}% of the labelled train faces"


def label_figures(evaluation: Evaluation) -> dict[str, Markup]:
    """The headline metrics against the number of labels, by title; empty with one number of labels."""
    if len(evaluation.budgets) < 2:
        return {}
    return {
        capitalized(metric.title): figure(
            partial(_draw_by_labels, evaluation=evaluation, metric=metric.name),
            f"{capitalized(metric.title)} by number of labelled faces",
        )
        for metric in METRICS.values()
        if metric.headline
    }


def _draw_by_labels(axes: Axes, evaluation: Evaluation, metric: str) -> None:
    for initial, number in colours([run.initial for run in evaluation.runs]).items():
        runs = [
            (run, value)
            for run in evaluation.runs
            if run.initial == initial and (value := run.means.get(metric)) is not None
        ]
        ends = [run.intervals.get(metric) or (value, value) for run, value in runs]
        axes.errorbar(
            [run.faces for run, _ in runs],
            [100 * value for _, value in runs],
            yerr=[
                [100 * max(0.0, value - low) for (_, value), (low, _) in zip(runs, ends, strict=True)],
                [100 * max(0.0, high - value) for (_, value), (_, high) in zip(runs, ends, strict=True)],
            ],
            color=colour(number),
            marker=MARKERS[number % len(MARKERS)],
            markersize=4,
            capsize=2,
            elinewidth=0.8,
        )
    majority = evaluation.majority.means.get(metric)
    if majority is not None:
        axes.axhline(100 * majority, color=SOFT, linestyle="--", linewidth=0.9)
    faces = sorted({run.faces for run in evaluation.runs})
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(faces))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(faces, [f"{number:,}" for number in faces])
    axes.yaxis.set_major_formatter("{x:g} %")
    axes.margins(x=0.08, y=0.12)


def attribute_bars(evaluation: Evaluation) -> tuple[list[dict[str, Any]], list[str]]:
    """The attributes at the fewest labels, highest gain first, and the names of those without a metric.

    Of each attribute: ``name``; ``tooltip``, all values in words; ``bars``, (number of the colour, average
    precision) of each initialisation; ``prevalence``, the share of positive test labels, which is the average
    precision of the majority class; ``gain`` over the run from scratch, or else over the prevalence.
    """
    budget, majority = evaluation.budgets[0], evaluation.majority.attributes
    other = challenger(budget)
    number_of = colours(list(budget))
    bars, undefined = [], []
    for name in majority:
        prevalence = majority[name].get(MAIN)
        values = {initial: run.attributes[name].get(MAIN) for initial, run in budget.items()}
        known = {initial: value for initial, value in values.items() if value is not None}
        if prevalence is None or len(known) < len(budget):
            undefined.append(name)
            continue
        value = known[other.initial] if other else known[SCRATCH]
        base = known[SCRATCH] if other and SCRATCH in known else prevalence
        described = {**{title(initial): share for initial, share in known.items()}, "prevalence": prevalence}
        bars.append(
            {
                "name": words(name),
                "tooltip": "; ".join(f"{what} {percent(share)}" for what, share in described.items()),
                "bars": [(number_of[initial], share) for initial, share in known.items()],
                "prevalence": prevalence,
                "gain": value - base,
            }
        )
    return sorted(bars, key=lambda each: (-each["gain"], each["name"])), undefined
