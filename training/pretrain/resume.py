"""What a run of stage 1 is made from, and the record that says whether it is finished."""

from pathlib import Path
from typing import Any, Final

from common.freshness import code_hash, read_record
from common.config import Config
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

RECORD: Final = "run.json"
"""Name of the record of a finished run, beside its results."""

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


def made_from(config: Config, layout: Layout, ranks: Ranks) -> dict[str, Any]:
    """`run_provenance` and the hash of the code, which a finished run leaves in its `RECORD`."""
    return {**run_provenance(config, layout, ranks), "code": code_hash(TRAINING)}


def is_up_to_date(folder: Path, inputs: dict[str, Any]) -> bool:
    """Whether the results of a run are in `folder` and were made from `inputs`, see `made_from`."""
    return read_record(folder / RECORD, inputs) is not None and (folder / FILE).is_file()
