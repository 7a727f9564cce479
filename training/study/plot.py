"""The study's plot: metrics against the number of labels, as an SVG that depends on its data alone."""

from pathlib import Path
from typing import Final

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from common.files import replacing
from common.page.figures import MARKERS, SOFT, STYLE, colour
from training.evaluate.metrics import Metric
from training.evaluate.scoring import MAJORITY
from training.study.results import StudyResults
from training.study.verdicts import headline_metrics

SPREAD: Final = 0.012
"""Share of the axis by which neighbouring lines are shifted, so that no error bar hides another."""


def plot(results: StudyResults, file: Path) -> None:
    """Draw a panel per headline metric: means over draws, error bars of one standard deviation."""
    metrics = headline_metrics()
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
