"""The page's small parts: numbers, words, tables and legends as HTML."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Final

from training.report.results import Run

SCORE_TITLES: Final = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "average_precision": "Average precision",
    "roc_auc": "ROC AUC",
}
INITIAL_TITLES: Final = {"pretrained": "pre-trained", "scratch": "from scratch"}
NARROW: Final = "\u202f"
"""Narrow no-break space, between a number and its unit."""


TASKS: Final = tuple(
    f"{task}_{kind}"
    for task in ("segmentation", "classification", "rotation", "angle", "agreement")
    for kind in ("loss", "accuracy")
)
"""The order of the curves."""


def percent(value: float | None) -> str:
    """A share as percent with one decimal and no unit; a dash for None."""
    return "\u2013" if value is None else f"{100 * value:.1f}"


def signed(value: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    text = f"{100 * value:+.1f}".replace("-", "\u2212")
    return "0.0" if text[1:] == "0.0" else text


def pairs(runs: Sequence[Run]) -> list[dict[str, Run]]:
    """The runs by share of labels, fewest first, each by its initialisation."""
    found: dict[float, dict[str, Run]] = {}
    for run in runs:
        found.setdefault(run.labels, {})[run.initial] = run
    return list(found.values())


def initials(runs: Iterable[Run]) -> list[str]:
    """The initialisations that occur, pre-trained first."""
    present = {run.initial for run in runs}
    return [name for name in ("pretrained", "scratch") if name in present]


def is_best(run: Run, pair: Mapping[str, Run], score: str) -> bool:
    """Whether the run is better than the other of its pair at the precision that is shown."""
    values = [other.means[score] for other in pair.values()]
    shown = {percent(value) for value in values}
    best = max((value for value in values if value is not None), default=None)
    return best is not None and len(shown) > 1 and run.means[score] == best


def row(title: str, means: Mapping[str, float | None], best: set[str], style: str = "majority") -> str:
    """A row of the headline table; the scores named in `best` are marked."""
    cells = "".join(
        f'<td class="best">{percent(means[name])}</td>'
        if name in best
        else f"<td>{percent(means[name])}</td>"
        for name in SCORE_TITLES
    )
    return f'<tr><th scope="row"><i class="dot {escape(style)}"></i>{escape(title)}</th>{cells}</tr>'


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts whose first column names the row."""
    top = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def legend(names: Sequence[str]) -> str:
    """A legend of initialisations and baselines by colour."""
    titles = {**INITIAL_TITLES, "majority": "majority class", "prevalence": "prevalence"}
    items = "".join(f'<li><i class="dot {name}"></i>{titles[name]}</li>' for name in names)
    return f'<ul class="legend">{items}</ul>'


def section(name: str, title: str, body: str) -> str:
    """A section with a heading; `body` is HTML."""
    return f'<section id="{name}"><h2>{title}</h2>{body}</section>'


def scroll(table: str) -> str:
    """A box in which a wide table scrolls sideways."""
    return f'<div class="scroll" tabindex="0">{table}</div>'


def words(name: str) -> str:
    """An attribute's name with spaces, escaped."""
    return escape(name.replace("_", " "))


def count(number: int, noun: str) -> str:
    """A number with its noun, such as ``1 face`` or ``2 faces``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def unit(share: float) -> str:
    """A share as percent with its unit."""
    return f"{percent(share)}{NARROW}%"


def duration(seconds: float) -> str:
    """Seconds as hours, minutes and seconds."""
    if seconds < 60:
        return f"{seconds:.1f}{NARROW}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours}{NARROW}h {minutes:02d}{NARROW}min" if hours else f"{minutes}{NARROW}min {rest:02d}{NARROW}s"
    )
