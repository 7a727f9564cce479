"""What a run of stage 1 is made from, and the record that says whether it is finished."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from common.code import code_hash
from common.config import Config
from common.files import write_text
from common.layout import Layout
from training.data.samples import pixels_hash
from training.engine.distributed import Ranks
from training.models.pretrained import FILE

NOT_COMPARED: Final = {
    "accumulate",
    "checkpoint_minutes",
    "keep_checkpoints",
    "loader_workers",
    "log_every",
    "picture_every",
    "tensorboard",
    "validate_every",
    "validate_samples",
}
"""Settings of stage 1 that do not change the weights, so that they may change within a run.

`accumulate` does, but it is compared as ``micro_batches``, together with the number of processes.
"""

CHECKPOINTS: Final = "checkpoints"
"""Name of the folder of checkpoints beside the results."""

TRAINING: Final = "training.pretrain.train"
"""The module whose hash is the version of the code."""


def run_provenance(config: Config, layout: Layout, ranks: Ranks) -> dict[str, Any]:
    """What the weights of a run depend on: shards, settings, and how many micro-batches make a batch."""
    return {
        "shards": pixels_hash(layout),
        "micro_batches": ranks.world * config.pretrain.accumulate,
        "network": config.network.model_dump(mode="json"),
        "pretrain": config.pretrain.model_dump(mode="json", exclude=NOT_COMPARED),
    }


@dataclass(frozen=True)
class Record:
    """The record of a finished run, ``run.json`` beside its results.

    Attributes:
        folder: of the results.
        made_from: `run_provenance` and the hash of the code.
    """

    folder: Path
    made_from: dict[str, Any]

    @classmethod
    def of(cls, config: Config, layout: Layout, folder: Path, ranks: Ranks) -> Self:
        """The record that a run with this configuration would leave."""
        return cls(folder, {**run_provenance(config, layout, ranks), "code": code_hash(TRAINING)})

    def is_up_to_date(self) -> bool:
        """Whether the results are there and were made from the same shards, settings and code."""
        try:
            stored = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return stored == {"made_from": self.made_from} and (self.folder / FILE).is_file()

    def write(self) -> None:
        """Write the record, after the results."""
        write_text(self.folder / "run.json", json.dumps({"made_from": self.made_from}, indent=2) + "\n")
