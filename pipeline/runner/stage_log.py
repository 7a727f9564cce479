"""How long the stages took, for people and the data card; nothing depends on it."""

import json
from dataclasses import asdict, dataclass
from typing import Final

from common.files import write_text
from common.storage import Address

FILE: Final = "stages.json"
"""Name of the log beside the manifests: a mapping from stage to `StageTiming`."""


@dataclass(frozen=True)
class StageTiming:
    """The last run of a stage that had shards to make.

    Attributes:
        seconds: wall clock, start of the cluster included.
        workers: at its start.
        made: shards.
        kept: shards that were up to date.
        images: rows of the shards that were made.
    """

    seconds: float
    workers: int
    made: int
    kept: int
    images: int


def log_stage(manifests: Address, stage: str, timing: StageTiming) -> None:
    """Replace the entry of `stage` in the log."""
    path = manifests / FILE
    try:
        stages = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        stages = {}
    write_text(path, json.dumps(stages | {stage: asdict(timing)}, indent=2, sort_keys=True) + "\n")
