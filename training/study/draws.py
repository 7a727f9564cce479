"""One pre-training, or one draw of an arm: stages 1 and 2 and the evaluation as ``training.run`` has them.

Both are done if their records were made from what they would be made from now.
"""

import json
from pathlib import Path
from typing import Any, Final

from common.config import Config
from common.errors import UserError
from common.freshness import code_hash, read_record, write_record
from common.layout import Layout
from training.engine.device import default_device
from training.engine.distributed import Ranks
from training.evaluate.evaluate import evaluate
from training.evaluate.metrics import METRICS
from training.evaluate.scoring import MAJORITY
from training.methods.method import Context
from training.methods.runs import finetune, labelled_faces, made_from
from training.pretrain import train as stage_1
from training.study.grid import Arm, draw_config, draw_folder, pretrained_file, pretraining_config

SCORES: Final = "scores.json"
"""Name of the file of a draw's scores, which is its record too."""


def pretraining_is_done(config: Config, layout: Layout, root: Path, name: str, seed: int) -> bool:
    """Whether the weights of a pre-training are there and up to date."""
    settings, ranks = pretraining_config(config, name, seed), Ranks(0, 1, default_device())
    inputs = stage_1.made_from(settings, layout, ranks)
    return stage_1.is_up_to_date(pretrained_file(root, name, seed).parent, inputs)


def run_pretraining(config: Config, layout: Layout, root: Path, name: str, seed: int, resume: str) -> None:
    """Pre-train, from the checkpoint if there is one; nothing happens if it is done.

    Args:
        config, layout: the settings and the shards.
        root: the study's folder.
        name: a key of ``study.pretrainings``.
        seed: below ``study.pretrain_seeds``.
        resume: as in `training.pretrain.train.pretrain`.

    Raises:
        UserError: there is no such pre-training, or what `training.pretrain.train.pretrain` raises.
    """
    settings = pretraining_config(config, name, seed)
    stage_1.pretrain(settings, layout, pretrained_file(root, name, seed).parent, resume)


def draw_is_done(config: Config, layout: Layout, root: Path, arm: Arm, draw: int) -> bool:
    """Whether the scores of one draw of an arm are there and up to date."""
    file = draw_folder(root, arm, draw) / SCORES
    return read_record(file, _made_from(config, layout, root, arm, draw)) is not None


def run_draw(config: Config, layout: Layout, root: Path, arm: Arm, draw: int, resume: str) -> None:
    """Fine-tune and evaluate with every amount of labels; nothing happens if it is done.

    ``scores.json`` holds ``runs``, the entries of ``runs.json`` with ``arm``, ``draw``, ``scores`` (means
    over attributes) and ``attributes`` (their scores), and ``majority``, the means of the majority class.

    Raises:
        UserError: the pre-training is missing, or what fine-tuning and evaluation raise.
    """
    weights, folder = _weights(config, root, arm, draw), draw_folder(root, arm, draw)
    if weights and not weights.is_file():
        raise UserError(
            f"{weights} is missing; `python -m training.study pretrain {arm.pretraining}` makes it"
        )
    if draw_is_done(config, layout, root, arm, draw):
        print(f"study: {arm}, draw {draw} is up to date")
        return
    print(f"study: {arm}, draw {draw}")
    settings = draw_config(config, arm, draw)
    finetune(settings, layout, weights or Path(), folder, resume)
    if not (entries := _read(folder / "runs.json")):
        raise UserError(f"{layout.shards}: no train face has a label, so there is nothing to study")
    evaluate(settings, layout, folder, folder / "evaluate")
    means, attributes = (_read(folder / "evaluate" / f"{name}.json") for name in ("metrics", "attributes"))
    runs = [
        {
            "arm": str(arm),
            "draw": draw,
            **run,
            "scores": {name: means[run["name"]][name] for name in METRICS},
            "attributes": attributes[run["name"]],
        }
        for run in entries
    ]
    inputs = _made_from(config, layout, root, arm, draw)
    write_record(folder / SCORES, {"runs": runs, "majority": means[MAJORITY]}, inputs)


def _made_from(config: Config, layout: Layout, root: Path, arm: Arm, draw: int) -> dict[str, Any]:
    """What the scores of a draw depend on: the runs, and how they are evaluated."""
    settings = draw_config(config, arm, draw)
    context = Context(settings, layout, Ranks(0, 1, default_device()), "auto")
    weights = _weights(config, root, arm, draw) or Path()
    return {
        "runs": [
            made_from(context, arm.method, run, labelled_faces(context, run), weights)
            for run in settings.finetune.runs
        ],
        "evaluate": settings.evaluate.model_dump(mode="json", exclude={"batch_size"}),
        "code": code_hash("training.evaluate.evaluate"),
    }


def _weights(config: Config, root: Path, arm: Arm, draw: int) -> Path | None:
    """The weights that a draw starts from, which take their seeds in turn; None without pre-training."""
    seed = draw % config.study.pretrain_seeds
    return pretrained_file(root, arm.pretraining, seed) if arm.pretraining else None


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))
