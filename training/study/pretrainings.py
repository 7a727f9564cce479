"""The pre-trainings of the study: stage 1 with some of its tasks, once each.

A record beside the weights says what they were made from: shards, settings and code. A pre-training is
done if its record is what it would be now.
"""

import json
from pathlib import Path
from typing import Any, Final

from common.code import code_hash
from common.config import Config
from common.errors import UserError
from common.files import write_text
from common.layout import Layout
from training.engine.device import default_device
from training.engine.distributed import Ranks
from training.pretrain.resume import run_provenance
from training.pretrain.train import pretrain
from training.study.grid import pretrained_file

RECORD: Final = "made-from.json"
"""Name of the record beside the weights."""


def pretraining_config(config: Config, name: str) -> Config:
    """The configuration of one pre-training: tasks that it does not list get weight 0.

    Raises:
        UserError: the study has no such pre-training.
    """
    if name not in config.study.pretrainings:
        known = ", ".join(config.study.pretrainings)
        raise UserError(f"the study has no pre-training {name}; study.pretrainings has {known}")
    selected = config.study.pretrainings[name]
    tasks = {
        task: block if task in selected else {**block, "weight": 0.0}
        for task, block in config.pretrain.tasks.items()
    }
    pretrain_section = config.pretrain.model_copy(update={"tasks": tasks})
    return config.model_copy(update={"pretrain": pretrain_section})


def is_done(config: Config, layout: Layout, root: Path, name: str) -> bool:
    """Whether the weights of a pre-training are there and up to date."""
    file = pretrained_file(root, name)
    return file.is_file() and _read(file.with_name(RECORD)) == _provenance(config, layout, name)


def run_pretraining(config: Config, layout: Layout, root: Path, name: str, resume: str) -> None:
    """Pre-train one initialisation, from its checkpoint if there is one; nothing happens if it is done.

    A checkpoint that other code wrote is discarded with a notice, unless `resume` is ``anyway``, since the
    study compares results of the same code.

    Args:
        config, layout: the settings and the shards.
        root: the study's folder.
        name: a key of ``study.pretrainings``.
        resume: as in `training.pretrain.train.pretrain`.

    Raises:
        UserError: there is no such pre-training, or what `training.pretrain.train.pretrain` raises.
    """
    if resume != "never" and is_done(config, layout, root, name):
        print(f"study: pre-training {name} is up to date")
        return
    file, provenance = pretrained_file(root, name), _provenance(config, layout, name)
    previous = _read(file.with_name(RECORD))
    if resume == "auto" and previous and previous.get("code") != provenance["code"]:
        print(f"study: the code of pre-training has changed, so {name} starts anew")
        resume = "never"
    file.unlink(missing_ok=True)
    write_text(file.with_name(RECORD), json.dumps(provenance, indent=2) + "\n")
    pretrain(pretraining_config(config, name), layout, file.parent, resume)


def _provenance(config: Config, layout: Layout, name: str) -> dict[str, Any]:
    settings = pretraining_config(config, name)
    return {
        **run_provenance(settings, layout, Ranks(0, 1, default_device())),
        "code": code_hash(__name__),
    }


def _read(file: Path) -> dict[str, Any] | None:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
