"""The probability at or above which an attribute counts as present."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from training.evaluate.thresholds import DEFAULT

Thresholds = tuple[dict[str, float], str]
"""The threshold of each attribute, and where they come from: ``val`` or ``none known``."""


def evaluation_folder(checkpoint: Path) -> Path:
    """The folder in which ``training.run`` evaluates the classifier RUNS/finetune/NAME/classifier.pt."""
    return checkpoint.absolute().parent.parent.parent / "evaluate"


def read_thresholds(attributes: Sequence[str], checkpoint: Path, file: Path | None) -> Thresholds:
    """The thresholds in `file`, or in the evaluation beside the classifier; `DEFAULT` where there is none.

    Args:
        attributes: their names.
        checkpoint: path of the classifier, whose folder is named like its run.
        file: ``attributes.json`` of an evaluation, or ``labels.json`` of an export; None to look for
            the evaluation of ``training.run``.

    Raises:
        UserError: `file` cannot be read, or has no attribute of this classifier.
    """
    run = checkpoint.absolute().parent.name
    entries: dict[str, Any] = {}
    evaluated = evaluation_folder(checkpoint) / "attributes.json"
    if file is not None:
        entries = _entries(file, run)
        if not any(name in entries for name in attributes):
            raise UserError(f"{file}: has neither the run {run} nor an attribute of this classifier")
    elif evaluated.is_file():
        entries = _entries(evaluated, run)
    known = {
        name: float(entries[name]["threshold"])
        for name in attributes
        if name in entries and entries[name].get("threshold") is not None
    }
    return {name: known.get(name, DEFAULT) for name in attributes}, "val" if known else "none known"


def _entries(file: Path, run: str) -> dict[str, Any]:
    """The entry of each attribute by name: of `run` in ``attributes.json``, or in ``labels.json``."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{file}: not valid JSON: {error}") from error
    entries: Any = content.get("attributes", content.get(run, {})) if isinstance(content, dict) else {}
    if isinstance(entries, list):
        entries = {entry["name"]: entry for entry in entries}
    return {name: entry for name, entry in entries.items() if isinstance(entry, dict)}
