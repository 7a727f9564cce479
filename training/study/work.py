"""The work of the study: one pre-training, one cell; what is done already is not done again.

A result says what it was made from. It is up to date if it would be made from the same now:
shards, settings, and for a cell the pre-trained weights. Changes of the code are DVC's business,
which deletes results that an older code made before it runs a stage.
"""

import hashlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from common.config import Config
from common.errors import UserError
from common.files import write_text
from common.layout import Layout
from training.data.samples import manifest_hash
from training.engine.device import default_device
from training.engine.distributed import Ranks
from training.evaluate.evaluate import evaluate
from training.evaluate.scoring import MAJORITY
from training.finetune.runs import finetune
from training.pretrain.resume import run_facts
from training.pretrain.train import pretrain
from training.study.grid import (
    Cell,
    cell_config,
    cell_file,
    cell_settings,
    pretrained_file,
    pretraining_config,
)

RECORD: Final = "made-from.json"
"""Beside the weights of a pre-training: what they were made from."""


def pretrain_one(config: Config, layout: Layout, root: Path, name: str, resume: str) -> None:
    """Pre-train one initialisation, or go on with it; nothing happens if it is done.

    Raises:
        UserError: no such pre-training, or what `training.pretrain.pretrain` raises.
    """
    own, file = pretraining_config(config, name), pretrained_file(root, name)
    facts = run_facts(own, layout, Ranks(0, 1, default_device()))
    record = file.with_name(RECORD)
    if file.is_file() and resume != "never" and _read(record) == facts:
        print(f"study: pre-training {name} is done")
        return
    pretrain(own, layout, file.parent, resume)
    write_text(record, json.dumps(facts, indent=2) + "\n")


def run_cell(config: Config, layout: Layout, root: Path, cell: Cell) -> None:
    """Fine-tune and evaluate one cell and keep its scores; nothing happens if it is done.

    The file holds the cell, ``faces``, ``seconds``, ``loss``, ``scores`` (means over attributes),
    ``attributes`` (scores by attribute), ``majority`` (means of the majority class), ``made_from``.

    Raises:
        UserError: the pre-training is missing, or what fine-tuning and evaluation raise.
    """
    file, own = cell_file(root, cell), cell_config(config, cell)
    source = pretrained_file(root, cell.pretraining) if cell.pretraining else root / "none"
    if cell.pretraining and not source.is_file():
        raise UserError(
            f"{source} is missing; `python -m training.study pretrain {cell.pretraining}` makes it"
        )
    facts = {
        "shards": manifest_hash(layout),
        "weights": hashlib.sha256(source.read_bytes()).hexdigest() if cell.pretraining else None,
        **cell_settings(own, cell),
    }
    what = f"{cell.initial}, {cell.labels * 100:g} % of the labels, seed {cell.seed}"
    if (_read(file) or {}).get("made_from") == facts:
        print(f"study: {what} is done")
        return
    print(f"study: {what}")
    with TemporaryDirectory() as temporary:
        tuned, scored = Path(temporary, "finetune"), Path(temporary, "evaluate")
        finetune(own, layout, source, tuned)
        evaluate(own.evaluate, own.stream, layout, tuned, scored)
        (run,) = json.loads((tuned / "runs.json").read_text(encoding="utf-8"))
        means = json.loads((scored / "metrics.json").read_text(encoding="utf-8"))
        details = json.loads((scored / "attributes.json").read_text(encoding="utf-8"))
    found = {
        "initial": cell.initial,
        "labels": cell.labels,
        "seed": cell.seed,
        **{name: run[name] for name in ("faces", "steps", "seconds", "loss")},
        "scores": {name: value for name, value in means[run["name"]].items() if name != "faces"},
        "attributes": details[run["name"]],
        "majority": means[MAJORITY],
        "made_from": facts,
    }
    write_text(file, json.dumps(found, indent=1) + "\n")


def _read(file: Path) -> dict[str, Any] | None:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
