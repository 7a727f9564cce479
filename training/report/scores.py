"""The fine-tuned classifiers and their metrics: in a table, against the number of labels, by attribute."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from common.errors import UserError
from common.page.figures import MARKERS, SOFT, colour, figure
from common.page.formats import NARROW, capitalized, percent, words
from training.evaluate.metrics import METRICS, PRIMARY, Metric
from training.evaluate.results import by_labels, predict_command, read_runs, read_scores
from training.evaluate.scoring import MAJORITY
from training.models.classifier import FILE


@dataclass(frozen=True)
class Run:
    """One fine-tuned classifier, or the majority class, and its metrics on the test split."""

    name: str  # such as ``pretrained-5%``
    title: str  # of its method
    colour: int  # number of the series colour of its method
    entry: Mapping[str, Any]  # of ``runs.json``; ``labels``: a share of the labelled train faces, or a file
    faces: int  # how many labelled faces it had
    file: Path  # of the classifier
    command: str  # that predicts with it
    # The others: see `read_scores`.
    means: Mapping[str, float | None]
    attributes: Mapping[str, Mapping[str, float | None]]
    intervals: Mapping[str, Sequence[float] | None]
    gains: Mapping[str, Mapping[str, Any]]
    subgroups: Mapping[str, Mapping[str, Any]]
    reliability: Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class Evaluation:
    """All evaluated runs."""

    # The runs that share their labels, fewest labels first, in the order of their methods; the first one of a
    # budget is the reference of the others.
    budgets: Sequence[Sequence[Run]]
    runs: Sequence[Run]  # all of them in this order
    methods: Sequence[Run]  # the first run of each method, with its title and colour, in the order of colours
    best_runs: Sequence[Run]  # the best run of each budget, by mean average precision
    majority: Run  # the majority class
    test_faces: int  # test faces with a label


def read_evaluation(output: Path, test_faces: int) -> Evaluation | None:
    """The evaluated runs; None if none was trained, because no face has a label.

    Raises:
        UserError: a result is missing; the message names the stage that writes it.
    """
    if not (entries := read_runs(output / "finetune")):
        return None
    scores = read_scores(output / "evaluate")
    if missing := [name for name in (MAJORITY, *(entry["name"] for entry in entries)) if name not in scores]:
        remedy = "`python -m training.run --stage evaluate` makes them"
        raise UserError(f"{output / 'evaluate'} has no metrics of {', '.join(missing)}; {remedy}")
    methods = list(dict.fromkeys(entry["method"] for entry in entries))

    def run(name: str, title: str, colour: int, entry: Mapping[str, Any]) -> Run:
        file = output / "finetune" / name / FILE
        return Run(name, title, colour, entry, entry["faces"], file, predict_command(file), **scores[name])

    budgets = [
        [run(entry["name"], entry["title"], methods.index(entry["method"]), entry) for entry in group]
        for group in by_labels(entries)
    ]
    runs = [run for budget in budgets for run in budget]
    first = {run.colour: run for run in reversed(runs)}
    best = [max(budget, key=lambda run: run.means[PRIMARY] or 0.0) for budget in budgets]
    majority = run(MAJORITY, MAJORITY, 0, {"faces": 0})
    return Evaluation(budgets, runs, [first[number] for number in sorted(first)], best, majority, test_faces)


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
    shown = [(metric.name, capitalized(metric.title)) for metric in METRICS.values() if metric.headline]
    draw = {title: partial(_draw_by_labels, evaluation=evaluation, metric=name) for name, title in shown}
    return {title: figure(draw[title], f"{title} by number of labelled faces") for _, title in shown}


def _draw_by_labels(axes: Axes, evaluation: Evaluation, metric: str) -> None:
    for method in evaluation.methods:
        points = []
        for run in evaluation.runs:
            if run.colour == method.colour and (value := run.means.get(metric)) is not None:
                low, high = run.intervals.get(metric) or (value, value)
                points.append((run.faces, value, max(0.0, value - low), max(0.0, high - value)))
        if points:
            faces, *values = zip(*points, strict=True)
            means, below, above = ([100 * each for each in row] for row in values)
            style: dict[str, Any] = {"markersize": 4, "capsize": 2, "elinewidth": 0.8}
            style |= {"color": colour(method.colour), "marker": MARKERS[method.colour % len(MARKERS)]}
            axes.errorbar(faces, means, yerr=[below, above], **style)
    if (majority := evaluation.majority.means.get(metric)) is not None:
        axes.axhline(100 * majority, color=SOFT, linestyle="--", linewidth=0.9)
    ticks = sorted({run.faces for run in evaluation.runs})
    axes.set_xscale("log")
    axes.minorticks_off()
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
        prevalence, mine = baseline.get(PRIMARY), best.attributes[name].get(PRIMARY)
        if prevalence is None or mine is None:
            undefined.append(name)
            continue
        known = [(run, value) for run in budget if (value := run.attributes[name].get(PRIMARY)) is not None]
        shown = [f"{run.title} {percent(value)}" for run, value in known]
        tooltip = "; ".join([*shown, f"prevalence {percent(prevalence)}"])
        values = {"prevalence": prevalence, "gain": mine - prevalence}
        colours = [(run.colour, value) for run, value in known]
        bars.append({"name": words(name), "tooltip": tooltip, "bars": colours, **values})
    return sorted(bars, key=lambda each: (-each["gain"], each["name"])), undefined
