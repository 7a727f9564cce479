"""The cells of the study: fine-tuning and evaluation of one initialisation, label share and seed.

The result says what it was made from: shards, weights, settings and code. A cell is done if that is what
it would be now.
"""

import hashlib
import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from common.config import Config, FinetuneRun
from common.errors import UserError
from common.freshness import code_hash, read_record, write_record
from common.layout import Layout
from training.data.index import manifest_hash
from training.evaluate.evaluate import evaluate
from training.evaluate.metrics import METRICS
from training.evaluate.scoring import MAJORITY
from training.finetune.runs import finetune
from training.models.attribute_groups import CELEBA_FILE, read_groups
from training.study.grid import Cell, cell_file, pretrained_file

MODES: Final = {"semi": "semi_supervised", "student": "student"}
"""The section of ``finetune`` that only one mode reads, by the mode."""


def cell_config(config: Config, cell: Cell) -> Config:
    """The configuration of one cell: a single fine-tuning run, evaluated without intervals and subgroups,
    which a result does not hold.
    """
    changes = {
        "seed": cell.seed,
        "runs": [FinetuneRun(labels=cell.labels, steps=cell.steps)],
        "initial": [cell.mode],
    }
    return config.model_copy(
        update={
            "finetune": config.finetune.model_copy(update=changes),
            "evaluate": config.evaluate.model_copy(update={"resamples": 1, "subgroups": []}),
        }
    )


def cell_settings(config: Config, cell: Cell) -> dict[str, Any]:
    """The settings that the result of a cell depends on, as JSON values; of a file, its content."""
    unused = {"loader_workers", "groups", "imagenet", "checkpoint_minutes", "keep_checkpoints"}
    unused |= {name for mode, name in MODES.items() if cell.mode != mode}
    settings = cell_config(config, cell)
    groups = settings.finetune.groups
    return {
        "groups": read_groups(CELEBA_FILE if groups is None else Path(groups)),
        "network": settings.network.model_dump(mode="json"),
        "finetune": settings.finetune.model_dump(mode="json", exclude=unused),
        "evaluate": settings.evaluate.model_dump(mode="json", exclude={"batch_size"}),
    }


def is_done(config: Config, layout: Layout, root: Path, cell: Cell) -> bool:
    """Whether the result of a cell is there and up to date; False if its pre-training is missing."""
    file = cell_file(root, cell)
    weights = _weights(root, cell)
    if not file.is_file() or (weights and not weights.is_file()):
        return False
    return read_record(file, _provenance(config, layout, root, cell)) is not None


def run_cell(config: Config, layout: Layout, root: Path, cell: Cell) -> None:
    """Fine-tune and evaluate one cell and keep its scores; nothing happens if it is done.

    The file holds the cell, ``faces``, ``seconds``, ``loss``, ``scores`` (means over attributes),
    ``attributes`` (scores by attribute), ``majority`` (means of the majority class), ``made_from``.

    Raises:
        UserError: the pre-training is missing, or what fine-tuning and evaluation raise.
    """
    weights = _weights(root, cell)
    if weights and not weights.is_file():
        raise UserError(
            f"{weights} is missing; `python -m training.study pretrain {cell.pretraining}` makes it"
        )
    if is_done(config, layout, root, cell):
        print(f"study: {cell} is up to date")
        return
    print(f"study: {cell}")
    settings = cell_config(config, cell)
    with TemporaryDirectory() as temporary:
        finetuned, evaluated = Path(temporary, "finetune"), Path(temporary, "evaluate")
        finetune(settings, layout, weights or Path(), finetuned)
        evaluate(settings.evaluate, settings.stream, layout, finetuned, evaluated)
        (run,) = _read(finetuned / "runs.json")
        means, attributes = _read(evaluated / "metrics.json"), _read(evaluated / "attributes.json")
    result = {
        "initial": cell.initial,
        "labels": cell.labels,
        "seed": cell.seed,
        **{name: run[name] for name in ("faces", "steps", "seconds", "loss")},
        "scores": {name: means[run["name"]][name] for name in METRICS},
        "attributes": attributes[run["name"]],
        "majority": means[MAJORITY],
    }
    write_record(cell_file(root, cell), result, _provenance(config, layout, root, cell))


def _provenance(config: Config, layout: Layout, root: Path, cell: Cell) -> dict[str, Any]:
    weights = _weights(root, cell)
    return {
        "shards": manifest_hash(layout),
        "weights": _sha256(weights, weights.stat().st_mtime_ns) if weights else None,
        "code": code_hash(__name__),
        **cell_settings(config, cell),
    }


def _weights(root: Path, cell: Cell) -> Path | None:
    """The weights that a cell starts from; None for one without pre-training."""
    return pretrained_file(root, cell.pretraining, cell.pretrain_seed) if cell.pretraining else None


@cache
def _sha256(file: Path, modified: int) -> str:
    """The hash of a file; `modified`, its time in nanoseconds, keeps the cache from being stale."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))
