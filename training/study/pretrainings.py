"""The pre-trainings of the study: stage 1 with some of its tasks, for each of their seeds."""

from pathlib import Path

from common.config import Config
from common.errors import UserError
from common.freshness import code_hash
from common.layout import Layout
from training.engine import checkpoint
from training.engine.device import default_device
from training.engine.distributed import Ranks
from training.pretrain.train import CHECKPOINTS, TRAINING, is_up_to_date, made_from, pretrain
from training.study.grid import pretrained_file


def pretraining_config(config: Config, name: str, seed: int = 0) -> Config:
    """The configuration of one pre-training: tasks that it does not list get weight 0, others that have
    none get 1. `seed` is added to that of stage 1.

    Raises:
        UserError: the study has no such pre-training.
    """
    if name not in config.study.pretrainings:
        known = ", ".join(config.study.pretrainings)
        raise UserError(f"the study has no pre-training {name}; study.pretrainings has {known}")
    selected = config.study.pretrainings[name]
    tasks = {
        task: {**block, "weight": (block["weight"] or 1.0) if task in selected else 0.0}
        for task, block in config.pretrain.tasks.items()
    }
    changes = {
        "tasks": tasks,
        "steps": config.study.pretrain_steps.get(name, config.pretrain.steps),
        "seed": config.pretrain.seed + seed,
    }
    return config.model_copy(update={"pretrain": config.pretrain.model_copy(update=changes)})


def is_done(config: Config, layout: Layout, root: Path, name: str, seed: int) -> bool:
    """Whether the weights of a pre-training are there and up to date."""
    inputs = made_from(pretraining_config(config, name, seed), layout, Ranks(0, 1, default_device()))
    return is_up_to_date(pretrained_file(root, name, seed).parent, inputs)


def run_pretraining(config: Config, layout: Layout, root: Path, name: str, seed: int, resume: str) -> None:
    """Pre-train one initialisation, from its checkpoint if there is one; nothing happens if it is done.

    A checkpoint that other code wrote is discarded with a notice, unless `resume` is ``anyway``, since the
    study compares results of the same code.

    Args:
        config, layout: the settings and the shards.
        root: the study's folder.
        name: a key of ``study.pretrainings``.
        seed: one of ``study.pretrain_seeds``.
        resume: as in `training.pretrain.train.pretrain`.

    Raises:
        UserError: there is no such pre-training, or what `training.pretrain.train.pretrain` raises.
    """
    settings = pretraining_config(config, name, seed)
    folder = pretrained_file(root, name, seed).parent
    latest = checkpoint.latest(folder / CHECKPOINTS, "study") if resume == "auto" else None
    if latest and latest[1].get("code") != code_hash(TRAINING):
        print(f"study: the code of pre-training has changed, so {name} starts anew")
        resume = "never"
    pretrain(settings, layout, folder, resume)
