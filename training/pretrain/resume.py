"""Checkpoints and the record of a run: what they belong to, and whether a run continues or is finished."""

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from common.code import code_hash
from common.config import Config
from common.errors import UserError
from common.files import write_text
from common.layout import Layout
from training.data.samples import manifest_hash
from training.engine import checkpoint
from training.engine.distributed import Ranks
from training.models.pretrained import FILE
from training.pretrain.state import TrainState

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
        "shards": manifest_hash(layout),
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


@dataclass
class Checkpoints:
    """The checkpoints of one run.

    A checkpoint is resumed across edits of the code, with a notice: the settings and the shards decide
    whether it is of the same run. Whoever needs results of one code alone adds ``--resume never``.

    Attributes:
        folder: where they lie.
        config: stored beside the weights.
        provenance: `run_provenance` of this run.
        ranks: all processes restore the same; the first prints, writes and deletes.
    """

    folder: Path
    config: Config
    provenance: dict[str, Any]
    ranks: Ranks
    _saved: float = field(default_factory=time.monotonic)

    def resume(self, state: TrainState, mode: str) -> int:
        """Restore the latest checkpoint into `state`; return the number of steps that it has done.

        Args:
            state: changed in place.
            mode: ``auto`` continues if the checkpoint is of the same run, ``anyway`` even if it is not,
                ``never`` deletes it and starts anew.

        Raises:
            UserError: the weights do not fit, or the checkpoint is of other shards or settings
                and `mode` is ``auto``; only the first process says so, the others just exit.
        """
        if mode == "never":
            self.clear()
            return 0
        latest = checkpoint.latest(self.folder, notices=self.ranks.first)
        if latest is None:
            return 0
        path, stored = latest
        differences = checkpoint.differences(stored.get("provenance", {}), self.provenance)
        if differences and mode != "anyway":
            if not self.ranks.first:
                sys.exit(1)
            raise UserError(
                f"{path} is of another run ({'; '.join(differences)}); delete {self.folder} to start anew, "
                "or add `--resume anyway` to continue it"
            )
        try:
            state.restore(stored["state"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise UserError(
                f"{path} cannot be continued: its weights do not fit the network that is configured now "
                f"({'; '.join(differences)}); delete {self.folder} to start anew"
            ) from error
        if self.ranks.first:
            changed = f" in spite of {'; '.join(differences)}" if differences else ""
            print(f"pretrain: resuming at step {stored['step']:,}{changed}")
            if stored["code"] != code_hash(TRAINING):
                print("pretrain: the code has changed since")
        return int(stored["step"])

    def save_due(self, state: TrainState, done: int, stopping: bool) -> None:
        """Write the checkpoint after `done` steps if the run stops now, or if the last one is old."""
        settings = self.config.pretrain
        old = time.monotonic() - self._saved > 60 * settings.checkpoint_minutes
        if not self.ranks.first or not (stopping or (old and done < settings.steps)):
            return
        stored = {
            "provenance": self.provenance,
            "config": self.config.model_dump(mode="json"),
            "code": code_hash(TRAINING),
            "state": state.state(),
        }
        checkpoint.save_step(self.folder, done, settings.keep_checkpoints, stored)
        self._saved = time.monotonic()

    def clear(self) -> None:
        """Delete them."""
        if self.ranks.first:
            checkpoint.clear(self.folder)
