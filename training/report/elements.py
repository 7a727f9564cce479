"""The result page's own small parts: rows and legends of runs."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Final

from contract.page.elements import percent
from training.report.results import Run

SCORE_TITLES: Final = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "average_precision": "Average precision",
    "roc_auc": "ROC AUC",
}
INITIAL_TITLES: Final = {"pretrained": "pre-trained", "scratch": "from scratch"}


TASKS: Final = tuple(
    f"{task}_{kind}"
    for task in ("segmentation", "classification", "rotation", "angle", "agreement")
    for kind in ("loss", "accuracy")
)
"""The order of the curves."""


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


def legend(names: Sequence[str]) -> str:
    """A legend of initialisations and baselines by colour."""
    titles = {**INITIAL_TITLES, "majority": "majority class", "prevalence": "prevalence"}
    items = "".join(f'<li><i class="dot {name}"></i>{titles[name]}</li>' for name in names)
    return f'<ul class="legend">{items}</ul>'
