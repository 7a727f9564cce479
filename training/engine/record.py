"""Records of results: what they were made from, so that nothing that is up to date is made again."""

import json
from pathlib import Path
from typing import Any

from common.files import write_text


def read_record(file: Path, made_from: dict[str, Any]) -> dict[str, Any] | None:
    """The record in a file if its result was made from the same; None if not, or without a record."""
    try:
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if record.get("made_from") == made_from else None


def write_record(file: Path, content: dict[str, Any], made_from: dict[str, Any]) -> None:
    """Write what a result says of itself, and what it was made from; to be called after the result exists."""
    write_text(file, json.dumps({**content, "made_from": made_from}, indent=1) + "\n")
