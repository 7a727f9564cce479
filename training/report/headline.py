"""What to use, in one sentence, and what pre-training gained; no more than the test faces can show."""

from common.page.formats import NARROW, count, signed, unit
from training.report.runs import MAIN, Evaluation


def headline(evaluation: Evaluation) -> str:
    """The best classifier with the fewest labels."""
    best = evaluation.best_runs[0]
    lead, value = f"With {count(best.faces, 'labelled face')}, ", best.means[MAIN]
    if value is None:
        return lead + "nothing can be ranked: in the test split each attribute has only one value"
    interval = ""
    if ends := best.intervals.get(MAIN):
        interval = f" (95{NARROW}% interval {unit(ends[0])} to {unit(ends[1])})"
    return f"{lead}the best classifier is “{best.title}”: mean average precision {unit(value)}{interval}"


def without_runs(faces: int, labelled: int, pretrained_on: int | None) -> str:
    """The headline when no classifier was trained.

    Args:
        faces, labelled: samples of all splits, and those that have a label (none in the train split).
        pretrained_on: faces of the pre-training, None if there was none.
    """
    done = "there was no pre-training"
    if pretrained_on:
        done = f"the network is pre-trained on {count(pretrained_on, 'face')}"
    cause = f"no classifier was trained, because no {'train face' if labelled else 'face'} has a label"
    return f"{count(faces, 'face')} in shards, and {done}; {cause}"


def pretraining_gain(evaluation: Evaluation, pretrained_on: int | None) -> str:
    """What the weights of stage 1 gain over the reference with the fewest labels; empty if nothing tells.

    Args:
        evaluation: at least one run.
        pretrained_on: faces of the pre-training, None if there was none.
    """
    first, *others = evaluation.budgets[0]
    run = next((run for run in others if run.entry.get("pretrained")), None)
    if run is None or (before := first.means[MAIN]) is None or (after := run.means[MAIN]) is None:
        return ""
    lead = (
        f"Pre-training on {count(pretrained_on, 'face')} without labels" if pretrained_on else "Pre-training"
    )
    change = f"mean average precision from {unit(before)} ({first.title}) to {unit(after)} ({run.title})"
    low, high = run.gains.get(MAIN, {}).get("interval") or (after - before, after - before)
    if low <= 0 <= high:
        return (
            f"{lead} moves {change}, a difference too small for "
            f"{count(evaluation.test_faces, 'test face')} to settle."
        )
    return (
        f"{lead} {'raises' if after > before else 'lowers'} {change}. When the people of the "
        f"{count(evaluation.test_faces, 'test face')} are resampled, 95{NARROW}% of the gains lie between "
        f"{signed(low)} and {signed(high)} points. Each network was trained once; the variance between "
        "trainings adds to that."
    )
