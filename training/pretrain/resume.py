"""Whether and where a run goes on: the checkpoint that fits, or a refusal that shows what differs."""

import sys
from pathlib import Path
from typing import Any, Final

from common.config import Config
from common.errors import UserError
from common.layout import Layout
from common.version import code_version
from training.data.samples import manifest_hash
from training.engine import checkpoint
from training.engine.distributed import Ranks
from training.pretrain.state import Stage

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

`accumulate` does, but it is compared as ``parts``, together with the number of processes.
"""


def run_facts(config: Config, layout: Layout, ranks: Ranks) -> dict[str, Any]:
    """What the weights of a run depend on: shards, settings, and into how many parts a batch is cut."""
    settings = config.pretrain.model_dump(mode="json", exclude=NOT_COMPARED)
    return {
        "shards": manifest_hash(layout),
        "parts": ranks.world * config.pretrain.accumulate,
        "network": config.network.model_dump(mode="json"),
        "pretrain": settings,
    }


def resume(folder: Path, facts: dict[str, Any], stage: Stage, ranks: Ranks, choice: str) -> int:
    """Restore the latest checkpoint of the run in `folder`; return the number of steps it has done.

    Args:
        folder: where the checkpoints lie.
        facts: `run_facts` of this run.
        stage: changed in place.
        ranks: all restore the same; the first speaks and deletes.
        choice: ``auto`` goes on if the checkpoint is of the same run, ``anyway`` even if it is not,
            ``never`` deletes it and starts anew.

    Raises:
        UserError: the weights do not fit, or
            the checkpoint is of other shards or settings, and nobody said to go on anyway;
            only the first process says so, the others just exit.
    """
    if choice == "never":
        if ranks.first:
            checkpoint.clear(folder)
        return 0
    found = checkpoint.latest(folder, notices=ranks.first)
    if found is None:
        return 0
    path, state = found
    differing = checkpoint.differences(state["facts"], facts)
    if differing and choice != "anyway":
        if not ranks.first:
            sys.exit(1)
        raise UserError(
            f"{path} is of another run ({'; '.join(differing)}); delete {folder} to start anew, "
            "or add `--resume anyway` to go on with it"
        )
    try:
        stage.restore(state["stage"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} cannot be continued: its weights do not fit the network that is configured now "
            f"({'; '.join(differing)}); delete {folder} to start anew"
        ) from error
    if ranks.first:
        changed = f" in spite of {'; '.join(differing)}" if differing else ""
        print(f"pretrain: going on at step {state['step']:,}{changed}")
        if state["code"] != (code := code_version()):
            print(f"pretrain: the code has changed since: {state['code']} -> {code}")
    return int(state["step"])


def save(folder: Path, step: int, config: Config, facts: dict[str, Any], stage: Stage) -> None:
    """Write the checkpoint after `step` steps: `facts`, the configuration, the code, and the stage."""
    state = {
        "facts": facts,
        "config": config.model_dump(mode="json"),
        "code": code_version(),
        "stage": stage.state(),
    }
    checkpoint.save_step(folder, step, config.pretrain.keep_checkpoints, state)
