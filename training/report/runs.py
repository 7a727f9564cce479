"""The fine-tuned classifiers and their metrics, as the stages before wrote them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from common.errors import UserError
from training.evaluate.metrics import PRIMARY
from training.evaluate.scoring import MAJORITY, SCRATCH
from training.report.initialisations import in_order

MAIN: Final = PRIMARY
"""The metric of the headline, by which the best run is chosen."""


@dataclass(frozen=True)
class Run:
    """One fine-tuned classifier, or the majority class, and its metrics on the test split.

    Attributes:
        name, initial: such as ``pretrained-5%`` and ``pretrained``.
        labels: share of the labelled train faces, or the path of a list. faces: how many these are.
        seconds: of training.
        means: mean of each metric over the attributes, or None.
        attributes: by attribute the metrics, or None, and the ``threshold``.
        intervals: [low, high] of each mean. gains: over the run from scratch, by metric ``value`` and
            ``interval``. subgroups, reliability: as in `training.evaluate.scoring.RunScores`. Empty where
            unknown.
        training: its entry of ``runs.json``; empty for the majority class.
    """

    name: str
    initial: str
    labels: float | str
    faces: int
    seconds: float
    means: Mapping[str, float | None]
    attributes: Mapping[str, Mapping[str, float | None]]
    intervals: Mapping[str, Sequence[float] | None]
    gains: Mapping[str, Mapping[str, Any]]
    subgroups: Mapping[str, Mapping[str, Any]]
    reliability: Sequence[Mapping[str, float]]
    training: Mapping[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """All evaluated runs.

    Attributes:
        budgets: the runs that share their labels, by initialisation, from scratch first; fewest labels first.
        majority: the majority class.
        test_faces: test faces with a label.
    """

    budgets: Sequence[Mapping[str, Run]]
    majority: Run
    test_faces: int

    @property
    def runs(self) -> list[Run]:
        """All runs in their order."""
        return [run for budget in self.budgets for run in budget.values()]

    def best_runs(self) -> list[Run]:
        """The best run of each number of labels, by mean average precision."""
        return [max(budget.values(), key=lambda run: run.means[MAIN] or 0.0) for budget in self.budgets]


def challenger(budget: Mapping[str, Run]) -> Run | None:
    """The run that is compared with the one from scratch: the pre-trained one, or the first other."""
    others = [run for initial, run in budget.items() if initial != SCRATCH]
    return budget.get("pretrained") or (others[0] if others else None)


def read_evaluation(output: Path, test_faces: int) -> Evaluation | None:
    """The evaluated runs; None if none was trained, because no face has a label.

    Raises:
        UserError: a result is missing; the message names the stage that writes it.
    """
    trained = read_json(output / "finetune" / "runs.json", "finetune")
    if not trained:
        return None
    files = [
        read_json(output / "evaluate" / f"{name}.json", "evaluate")
        for name in ("metrics", "attributes", "intervals")
    ]
    missing = [
        name
        for name in (MAJORITY, *(run["name"] for run in trained))
        if any(name not in file for file in files)
    ]
    if missing:
        raise UserError(
            f"{output / 'evaluate'} has no metrics of {', '.join(missing)}; "
            "`python -m training.run --stage evaluate` makes them"
        )
    order = in_order((SCRATCH, *(run["initial"] for run in trained)))
    runs = [_run(entry, *files) for entry in trained]
    runs.sort(key=lambda run: (run.faces, str(run.labels), order.index(run.initial)))
    budgets: dict[str, dict[str, Run]] = {}
    for run in runs:
        budgets.setdefault(str(run.labels), {})[run.initial] = run
    return Evaluation(list(budgets.values()), _run({}, *files), test_faces)


def read_json(path: Path, stage: str) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: there is none; the message names the stage that writes it.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; `python -m training.run --stage {stage}` makes it")
    return json.loads(path.read_text(encoding="utf-8"))


def _run(
    entry: Mapping[str, Any],
    means: Mapping[str, Any],
    attributes: Mapping[str, Any],
    uncertainty: Mapping[str, Any],
) -> Run:
    name = entry.get("name", MAJORITY)
    return Run(
        name=name,
        initial=entry.get("initial", MAJORITY),
        labels=entry.get("labels", 0.0),
        faces=entry.get("faces", 0),
        seconds=entry.get("seconds", 0.0),
        means=means[name],
        attributes=attributes[name],
        intervals=uncertainty[name]["means"],
        gains=uncertainty[name]["gains"],
        subgroups=uncertainty[name]["gaps"],
        reliability=uncertainty[name]["reliability"],
        training=entry,
    )
