"""The study's table, in Markdown."""

from tabulate import tabulate

from training.evaluate.metrics import METRICS
from training.evaluate.scoring import MAJORITY
from training.study.results import StudyResults

MISSING = "\u2013"
"""Stands for a metric that is not defined."""


def as_markdown(results: StudyResults) -> str:
    """A row per label share and initialisation, in percent, mean and deviation over seeds."""
    majority = results.cells[0]["majority"]
    baseline = [majority.get(metric) for metric in METRICS]
    rows = [["", MAJORITY, *(MISSING if value is None else f"{100 * value:.1f}" for value in baseline)]]
    for labels in results.labels:
        share = f"{results.faces(labels):,} ({100 * labels:g} %)"
        for initial in results.initialisations:
            summaries = [results.summary(initial, labels, metric) for metric in METRICS]
            if any(summaries):
                rows.append([share, results.title(initial), *(str(each or MISSING) for each in summaries)])
                share = ""
    heads = ["labels", "initialisation", *(metric.title for metric in METRICS.values())]
    return f"{markdown(heads, rows)}\n\n{_note(results)}\n"


def markdown(heads: list[str], rows: list[list[str]], text_columns: int = 2) -> str:
    """A Markdown table whose columns after the first `text_columns` are aligned to the right."""
    alignment = ["left"] * text_columns + ["right"] * (len(heads) - text_columns)
    return tabulate(rows, heads, tablefmt="pipe", colalign=alignment, disable_numparse=True)


def _note(results: StudyResults) -> str:
    seeds = len({cell["seed"] for cell in results.cells})
    note = (
        "Percent on the test split, means over attributes, thresholds from val; "
        f"mean ± standard deviation over {seeds} seeds."
    )
    return note + (f" {results.missing} cells are not done." if results.missing else "")
