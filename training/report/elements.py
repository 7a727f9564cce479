"""The result page's own small parts: rows and legends of runs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from common.page.elements import percent, words
from training.report.results import Run

SCORE_TITLES: Final = {
    "average_precision": "Average precision",
    "balanced_accuracy": "Balanced accuracy",
    "roc_auc": "ROC AUC",
    "f1": "F1",
    "accuracy": "Accuracy",
    "calibration_error": "Calibration error",
}
"""The scores in the order of the tables."""

LESS_IS_BETTER: Final = {"calibration_error"}

INITIAL_TITLES: Final = {
    "pretrained": "pre-trained",
    "scratch": "from scratch",
    "semi": "pre-trained, semi-supervised",
    "imagenet": "from ImageNet",
    "full": "full SSPL",
    "joint": "PRT + PST + PCT",
    "rotation": "PRT only",
    "segmentation": "PST only",
    "classification": "PCT only",
}

STYLES: Final = {
    "scratch": "scratch",
    "pretrained": "pretrained",
    "full": "pretrained",
    "semi": "semi",
    "semi-full": "semi",
    "imagenet": "tone-1",
    "joint": "tone-1",
    "rotation": "tone-2",
    "segmentation": "tone-3",
    "classification": "tone-4",
}
"""The CSS class that gives an initialisation its colour; any other has the last."""


def title_of(initial: str) -> str:
    """What the page calls an initialisation, escaped."""
    if initial in INITIAL_TITLES:
        return INITIAL_TITLES[initial]
    if initial.startswith("semi-"):
        return f"semi-supervised from {title_of(initial.removeprefix('semi-'))}"
    return words(initial)


def style_of(initial: str) -> str:
    """The CSS class of an initialisation."""
    return STYLES.get(initial, "tone-5")


TASKS: Final = tuple(
    f"{task}_{kind}"
    for task in ("segmentation", "classification", "rotation", "angle", "agreement")
    for kind in ("loss", "accuracy")
)
"""The order of the curves."""


def pairs(runs: Sequence[Run]) -> list[dict[str, Run]]:
    """The runs by labels, fewest first, each by its initialisation."""
    found: dict[str, dict[str, Run]] = {}
    for run in runs:
        found.setdefault(str(run.labels), {})[run.initial] = run
    return list(found.values())


def challenger(pair: Mapping[str, Run]) -> Run | None:
    """The run that is compared with the one from scratch: the pre-trained one, or the first other."""
    others = [run for initial, run in pair.items() if initial != "scratch"]
    return pair.get("pretrained") or (others[0] if others else None)


def initials(runs: Iterable[Run]) -> list[str]:
    """The initialisations that occur, from scratch last."""
    present = list(dict.fromkeys(run.initial for run in runs))
    return sorted(present, key=lambda name: (name == "scratch", name != "pretrained"))


def is_best(run: Run, pair: Mapping[str, Run], score: str) -> bool:
    """Whether no run on the same labels is better, and some are worse at the precision that is shown."""
    values = [other.means.get(score) for other in pair.values()]
    known = [value for value in values if value is not None]
    if len({percent(value) for value in values}) < 2 or not known:
        return False
    return run.means.get(score) == (min(known) if score in LESS_IS_BETTER else max(known))


def row(run: Run, title: str, best: set[str], style: str = "majority") -> str:
    """A row of the headline table with intervals; the scores named in `best` are marked."""
    cells = ""
    for name in SCORE_TITLES:
        edges = run.intervals.get(name)
        between = (
            f'<span class="between">{percent(edges[0])}\u2013{percent(edges[1])}</span>' if edges else ""
        )
        kind = ' class="best"' if name in best else ""
        cells += f"<td{kind}>{percent(run.means.get(name))}{between}</td>"
    return f'<tr><th scope="row"><i class="dot {style}"></i>{title}</th>{cells}</tr>'


def legend(names: Sequence[str]) -> str:
    """A legend of initialisations and baselines by colour."""
    others = {"majority": "majority class", "prevalence": "prevalence"}
    items = "".join(
        f'<li><i class="dot {name if name in others else style_of(name)}"></i>'
        f"{others.get(name) or title_of(name)}</li>"
        for name in names
    )
    return f'<ul class="legend">{items}</ul>'
