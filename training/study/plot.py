"""The study's plot: scores against the number of labels, as an SVG that depends on its data alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib

matplotlib.use("svg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from common.files import replacing
from training.study.grid import title
from training.study.table import SHOWN, Study

SCORES: Final = ("average_precision", "balanced_accuracy")
COLOURS: Final = ("#555555", "#e69f00", "#56b4e9", "#cc79a7", "#009e73", "#0072b2", "#d55e00")
"""Okabe and Ito's colours, which colour-blind readers tell apart."""

MARKERS: Final = "sv^D<oP"
SPREAD: Final = 0.012
"""Share of the axis by which neighbouring lines stand apart, so that no error bar hides another."""


def plot(study: Study, file: Path) -> None:
    """Draw a panel per score: mean over seeds, error bars of one standard deviation, log axis of labels."""
    style: Any = {
        "svg.hashsalt": "study",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 9,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(9, 4.2), layout="constrained")
        panels = figure.subplots(1, len(SCORES))
        for axes, score in zip(panels, SCORES, strict=True):
            _panel(axes, study, score)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
        with replacing(file) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})


def _panel(axes: Axes, study: Study, score: str) -> None:
    counts = [study.faces(labels) for labels in study.labels]
    span = counts[-1] / counts[0]
    for number, initial in enumerate(study.initials):
        points = [
            (count, found)
            for count, labels in zip(counts, study.labels, strict=True)
            if (found := study.summary(initial, labels, score))
        ]
        if not points:
            continue
        shift = span ** (SPREAD * (number - (len(study.initials) - 1) / 2))
        axes.errorbar(
            [count * shift for count, _ in points],
            [100 * found.mean for _, found in points],
            yerr=[100 * (found.deviation or 0) for _, found in points],
            label=title(initial),
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            markersize=4,
            linewidth=1.2,
            capsize=2,
        )
    majority = study.cells[0]["majority"].get(score)
    if majority is not None:
        axes.axhline(100 * majority, color="#999999", linestyle=":", label="majority class")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(counts))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(counts, _ticks(study, counts))
    axes.set_xlabel("labelled faces")
    axes.set_title(f"{SHOWN[score]}, %")
    axes.grid(alpha=0.25)


def _ticks(study: Study, counts: Sequence[int]) -> list[str]:
    return [f"{count:,}\n{100 * labels:g} %" for count, labels in zip(counts, study.labels, strict=True)]
