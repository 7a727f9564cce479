"""From which probability on an attribute counts as present."""

import json
from pathlib import Path
from typing import Any, Final

from common.errors import UserError

DEFAULT: Final = 0.5
"""Where nothing else is known."""


def evaluation_of(checkpoint: Path) -> Path:
    """Where ``training.run`` writes the scores of a classifier in ``RUNS/finetune/NAME/classifier.pt``."""
    return checkpoint.absolute().parent.parent.parent / "evaluate"


def read_thresholds(
    state: dict[str, Any], checkpoint: Path, file: Path | None
) -> tuple[dict[str, float], str]:
    """The threshold of each attribute, and where it is from.

    Taken from `file` if there is one, else from the classifier's file itself (an exported one
    has them), else from the evaluation beside it; 0.5 where these say nothing.

    Args:
        state: content of the classifier's file.
        checkpoint: its path.
        file: ``attributes.json`` of an evaluation, or ``labels.json`` of an export.

    Raises:
        UserError: the file is missing, or says nothing of this classifier.
    """
    names = list(state["attributes"])
    if file is None and "thresholds" in state:
        return dict(state["thresholds"]), str(state["thresholds_from"])
    beside = evaluation_of(checkpoint) / "attributes.json"
    run = checkpoint.absolute().parent.name
    known: dict[str, Any] = {}
    if file is not None:
        known = _of_run(file, run)
        if not any(name in known for name in names):
            raise UserError(f"{file}: says nothing of the run {run} nor of this classifier's attributes")
    elif beside.is_file():
        file, known = beside, _of_run(beside, run)
    found = {
        name: float(known[name]["threshold"])
        for name in names
        if name in known and known[name].get("threshold") is not None
    }
    said = "val" if found else "none known"
    return {name: found.get(name, DEFAULT) for name in names}, said


def _of_run(file: Path, run: str) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{file}: no JSON: {error}") from error
    entries: Any = content.get("attributes", content.get(run, {})) if isinstance(content, dict) else {}
    if isinstance(entries, list):
        entries = {entry["name"]: entry for entry in entries}
    return {name: entry for name, entry in entries.items() if isinstance(entry, dict)}
