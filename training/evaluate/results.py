"""What fine-tuning and evaluation wrote, for those who read it: predictions, the model card, the report."""

import json
import shlex
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from common.errors import UserError

# Beside a classifier that ``training.fit`` made: its scores on labelled faces that a fit left out.
LEFT_OUT_SCORES: Final = "scores.json"

Entry = Mapping[str, Any]  # Of ``runs.json``: a fine-tuned classifier


def read_json(file: Path, stage: str | None = None) -> Any:
    """The content of a JSON file; a message names the `stage` of ``training.run`` that writes it.

    Raises:
        UserError: the file is missing or no JSON.
    """
    remedy = f"; `python -m training.run --stage {stage}` makes it" if stage else ""
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise UserError(f"{file} is missing{remedy}") from error
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{file}: not valid JSON ({error}){remedy}") from error


def read_runs(finetuned: Path) -> list[Entry]:
    """The entries of ``runs.json``.

    Raises:
        UserError: the file is missing or no JSON.
    """
    return list(read_json(finetuned / "runs.json", "finetune"))


def by_labels(runs: Sequence[Entry]) -> list[list[Entry]]:
    """The runs that share their labels, fewest labels first, each in the order of their methods.

    The first run of a group is the reference that the others' gains are measured against.
    """
    ascending = sorted(runs, key=lambda run: (run["faces"], str(run["labels"])))
    return [list(group) for _, group in groupby(ascending, key=lambda run: str(run["labels"]))]


def predict_command(classifier: Path) -> str:
    """The shell line that predicts the attributes of photos with the classifier in a file."""
    checkpoint = shlex.quote(str(classifier))
    return f"python -m training.predict --checkpoint {checkpoint} photos/ --output faces.csv"


def read_scores(evaluation: Path) -> dict[str, dict[str, Any]]:
    """By name of a run, or of the majority class, what an evaluation found.

    Returns:
        ``means``, its entry of ``metrics.json``; ``attributes``, that of ``attributes.json``; of
        ``intervals.json``, ``intervals`` (of the means), ``gains``, ``subgroups`` and ``reliability``. A run
        that one of the files does not have is left out.

    Raises:
        UserError: a file is missing or no JSON.
    """
    means, attributes, intervals = (
        read_json(evaluation / f"{name}.json", "evaluate") for name in ("metrics", "attributes", "intervals")
    )
    names = {"intervals": "means", "gains": "gains", "subgroups": "gaps", "reliability": "reliability"}
    return {
        name: {"means": means[name], "attributes": attributes[name]}
        | {here: intervals[name][there] for here, there in names.items()}
        for name in means
        if name in attributes and name in intervals
    }
