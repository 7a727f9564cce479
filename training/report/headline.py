"""The result in one sentence, and what it rests on; a gain is claimed only if the test faces can show it."""

from common.page.formats import NARROW, count, percent, signed, unit
from training.report.runs import MAIN, Evaluation, Run, challenger


def headline(evaluation: Evaluation, pretrained_on: int | None) -> str:
    """The result at the fewest labels.

    Args:
        evaluation: at least one run.
        pretrained_on: faces of the pre-training, None if there was none.
    """
    budget, main = evaluation.budgets[0], "mean average precision"
    lead = f"With {count(budget[0].faces, 'labelled face')}, "
    if all(run.means[MAIN] is None for run in budget):
        return lead + "nothing can be ranked: in the test split each attribute has only one value"
    other = challenger(budget)
    after = (other or budget[0]).means[MAIN]
    name = _name(other or budget[0], pretrained_on)
    if other is None:
        chance = evaluation.majority.means[MAIN]
        beside = "" if chance is None else f"; the majority class has {unit(chance)}"
        return f"{lead}{main} is {unit(after or 0.0)} ({name}){beside}"
    before = budget[0].means[MAIN]
    if before is None or after is None:
        return f"{lead}{budget[0].title} and {name} cannot be compared: one has no average precision"
    if percent(before) == percent(after):
        return f"{lead}{main} is {unit(after)}, {budget[0].title} and {name} alike"
    change = f"from {unit(before)} ({budget[0].title}) to {unit(after)} ({name})"
    interval = other.gains.get(MAIN, {}).get("interval")
    if interval and interval[0] <= 0 <= interval[1]:
        limit = f"a difference too small for {count(evaluation.test_faces, 'test face')} to settle"
        return f"{lead}{main} moves {change}, {limit}"
    return f"{lead}{main} {'rises' if after > before else 'falls'} {change}"


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
    most = evaluation.budgets[-1]
    if len(evaluation.budgets) > 1 and (other := challenger(most)) is not None:
        before, after = most[0].means[MAIN], other.means[MAIN]
        if before is not None and after is not None:
            faces = count(other.faces, "labelled face")
            sentences.append(
                f"With {faces} it is {unit(before)} ({most[0].title}) and {unit(after)} ({other.title})."
            )
    return " ".join(sentences)


def _name(run: Run, pretrained_on: int | None) -> str:
    """The title of a run's method, and on how many faces it was pre-trained."""
    known = run.entry.get("pretrained") and pretrained_on
    return f"{run.title} on {count(pretrained_on or 0, 'face')} without labels" if known else run.title
