"""The fine-tuned classifiers and their metrics, as the stages before wrote them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from common.errors import UserError
from training.evaluate.metrics import PRIMARY
from training.evaluate.results import by_labels, predict_command, read_runs, read_scores
from training.evaluate.scoring import MAJORITY
from training.models.classifier import FILE

MAIN: Final = PRIMARY
"""The metric of the headline, by which the best run is chosen."""


@dataclass(frozen=True)
class Run:
    """One fine-tuned classifier, or the majority class, and its metrics on the test split.

    Attributes:
        name: such as ``pretrained-5%``.
        title: of its method.
        colour: number of the series colour of its method.
        entry: of ``runs.json``; ``labels`` is a share of the labelled train faces or the path of a list,
            ``faces`` how many these are.
        file: of the classifier.
        means, attributes, intervals, gains, subgroups, reliability: see `read_scores`.
    """

    name: str
    title: str
    colour: int
    entry: Mapping[str, Any]
    file: Path
    means: Mapping[str, float | None]
    attributes: Mapping[str, Mapping[str, float | None]]
    intervals: Mapping[str, Sequence[float] | None]
    gains: Mapping[str, Mapping[str, Any]]
    subgroups: Mapping[str, Mapping[str, Any]]
    reliability: Sequence[Mapping[str, float]]

    @property
    def faces(self) -> int:
        """The number of labelled faces that it had."""
        return int(self.entry["faces"])

    @property
    def command(self) -> str:
        """What predicts with it."""
        return predict_command(self.file)


@dataclass(frozen=True)
class Evaluation:
    """All evaluated runs.

    Attributes:
        budgets: the runs that share their labels, fewest labels first, in the order of their methods; the
            first one of a budget is the reference of the others.
        majority: the majority class.
        test_faces: test faces with a label.
    """

    budgets: Sequence[Sequence[Run]]
    majority: Run
    test_faces: int

    @property
    def runs(self) -> list[Run]:
        """All runs in their order."""
        return [run for budget in self.budgets for run in budget]

    @property
    def methods(self) -> list[Run]:
        """The first run of each method, which has its title and colour, in the order of colours."""
        first = {run.colour: run for run in reversed(self.runs)}
        return [first[number] for number in sorted(first)]

    @property
    def best_runs(self) -> list[Run]:
        """The best run of each number of labels, by mean average precision."""
        return [max(budget, key=lambda run: run.means[MAIN] or 0.0) for budget in self.budgets]


def read_evaluation(output: Path, test_faces: int) -> Evaluation | None:
    """The evaluated runs; None if none was trained, because no face has a label.

    Raises:
        UserError: a result is missing; the message names the stage that writes it.
    """
    if not (entries := read_runs(output / "finetune")):
        return None
    scores = read_scores(output / "evaluate")
    if missing := [name for name in (MAJORITY, *(entry["name"] for entry in entries)) if name not in scores]:
        raise UserError(
            f"{output / 'evaluate'} has no metrics of {', '.join(missing)}; "
            "`python -m training.run --stage evaluate` makes them"
        )
    methods = list(dict.fromkeys(entry["method"] for entry in entries))

    def run(name: str, title: str, colour: int, entry: Mapping[str, Any]) -> Run:
        return Run(name, title, colour, entry, output / "finetune" / name / FILE, **scores[name])

    budgets = [
        [run(entry["name"], entry["title"], methods.index(entry["method"]), entry) for entry in group]
        for group in by_labels(entries)
    ]
    return Evaluation(budgets, run(MAJORITY, MAJORITY, 0, {"faces": 0}), test_faces)
