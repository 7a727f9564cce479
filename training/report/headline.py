"""The result in one sentence, and what it rests on; a gain is claimed only if the test faces can show it."""

from collections.abc import Mapping

from common.page.formats import NARROW, count, percent, signed, unit
from training.evaluate.scoring import SCRATCH
from training.report.initialisations import title
from training.report.runs import MAIN, Evaluation, Run, challenger


def headline(evaluation: Evaluation, pretrained_on: int | None) -> str:
    """The result at the fewest labels.

    Args:
        evaluation: at least one run.
        pretrained_on: faces of the pre-training, None if there was none.
    """
    budget = evaluation.budgets[0]
    lead = f"With {count(next(iter(budget.values())).faces, 'labelled face')}, "
    if all(run.means[MAIN] is None for run in budget.values()):
        return lead + "nothing can be ranked: in the test split each attribute has only one value"
    other = challenger(budget)
    data = f" on {count(pretrained_on, 'face')} without labels" if pretrained_on else ""
    if other is None or SCRATCH not in budget:
        return lead + _alone(other or budget[SCRATCH], evaluation.majority, data)
    return lead + _compared(budget[SCRATCH], other, evaluation.test_faces, data)


def without_runs(faces: int, labelled: int, pretrained_on: int | None) -> str:
    """The headline when no classifier was trained.

    Args:
        faces, labelled: samples of all splits, and those that have a label (none in the train split).
        pretrained_on: faces of the pre-training, None if there was none.
    """
    done = (
        f"the network is pre-trained on {count(pretrained_on, 'face')}"
        if pretrained_on
        else "there was no pre-training"
    )
    unlabelled = "train face" if labelled else "face"
    cause = f"no classifier was trained, because no {unlabelled} has a label"
    return f"{count(faces, 'face')} in shards, and {done}; {cause}"


def _alone(run: Run, majority: Run, data: str) -> str:
    """A network without another that it could be compared with."""
    value, chance = run.means[MAIN], majority.means[MAIN]
    if value is None:
        return "the network has no average precision"
    names = {
        "pretrained": f"a network pre-trained{data}" if data else "a pre-trained network",
        SCRATCH: "a network trained from scratch",
    }
    name = names.get(run.initial, f"the network {title(run.initial)}")
    beside = "" if chance is None else f"; the majority class has {unit(chance)}"
    return f"{name} reaches a mean average precision of {unit(value)}{beside}"


def _compared(scratch: Run, other: Run, test_faces: int, data: str) -> str:
    before, after = scratch.means[MAIN], other.means[MAIN]
    if before is None or after is None:
        return "one of the two networks has no average precision"
    subject = "pre-training" if other.initial == "pretrained" else f"starting {title(other.initial)}"
    change = f"mean average precision from {unit(before)} to {unit(after)}"
    if percent(before) == percent(after):
        return f"{subject}{data} leaves mean average precision at {unit(after)}"
    interval = other.gains.get(MAIN, {}).get("interval")
    if interval and interval[0] <= 0 <= interval[1]:
        limit = f"a difference too small for {count(test_faces, 'test face')} to settle"
        return f"{subject}{data} moves {change}, {limit}"
    return f"{subject}{data} {'raises' if after > before else 'lowers'} {change}"


def lede(evaluation: Evaluation) -> str:
    """What the headline rests on, and the result with the most labels; may be empty."""
    sentences = []
    other = challenger(evaluation.budgets[0])
    if other is not None and (interval := other.gains.get(MAIN, {}).get("interval")):
        low, high = map(signed, interval)
        sentences.append(
            f"When the people of the {count(evaluation.test_faces, 'test face')} are resampled, "
            f"95{NARROW}% of the gains lie between {low} and {high} points. Each network was trained once; "
            "the variance between trainings adds to that."
        )
    if len(evaluation.budgets) > 1:
        sentences += _with_most_labels(evaluation.budgets[-1])
    return " ".join(sentences)


def _with_most_labels(budget: Mapping[str, Run]) -> list[str]:
    other = challenger(budget)
    if other is None or SCRATCH not in budget:
        return []
    before, after = budget[SCRATCH].means[MAIN], other.means[MAIN]
    if before is None or after is None:
        return []
    faces = count(other.faces, "labelled face")
    return [f"With {faces} it is {unit(before)} from scratch and {unit(after)} {title(other.initial)}."]
