"""Stage 1: the joint pretext tasks on unlabelled faces."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from common.config import Config
from common.errors import UserError
from common.files import write_text
from common.freshness import code_hash, read_record, write_record
from common.layout import Layout
from training.data.loader import Batch, BrokenSamples, TrainingData
from training.data.samples import Samples, pixels_hash, read_samples
from training.engine.checkpoint import Checkpoints
from training.engine.device import announce_training, autocast, numerics, set_seed
from training.engine.distributed import Ranks, joined
from training.engine.objective import Objective, StepLoss
from training.engine.optim import ParameterGroups
from training.engine.trainer import Trainer
from training.models.pretrained import FILE, save_pretrained
from training.pretrain.model import PretrainModel, read_validation_samples, validate
from training.pretrain.tasks import read_settings

RECORD: Final = "run.json"  # Name of the record of a finished run, beside its results


class PretextObjective(Objective):
    """The tasks with a weight, on patches of faces."""

    model: PretrainModel

    def __init__(self, config: Config, device: torch.device, samples: Samples, validation: Samples) -> None:
        self._config, self._settings = config, config.pretrain
        self._device, self._validation, seed = device, validation, config.pretrain.seed
        set_seed(seed)
        self.model = PretrainModel(config.network, config.pretrain)
        members, broken = self.model.members(), BrokenSamples(config.stream.max_broken)
        self.data = TrainingData(samples, members, seed, config, broken)
        adversaries = {task.name: made for task in self.model.active() if (made := task.adversary())}
        self.adversary = nn.ModuleDict(adversaries) if adversaries else None

    def parameter_groups(self) -> ParameterGroups:
        """All parameters, at one rate."""
        return [(list(self.model.parameters()), self._settings.learning_rate)]

    def loss(self, forward: Callable[..., Any], batch: Batch, step: int, micro_batch: int) -> StepLoss:
        """The weighted sum of all tasks' losses."""
        model, adversaries = self.model, self.adversary or nn.ModuleDict()
        example = model.prepare(batch, step, micro_batch)
        with autocast(self._device, self._config.trainer.precision):
            outputs = forward(example.crops.patches, example.targets)
            total, terms = model.losses(outputs, example.targets, adversaries)

        def values() -> dict[str, float]:
            scores = model.scores([model.observe(outputs, example.targets)], training=True)
            return {**{name: term.item() for name, term in terms.items()}, **scores}

        def adversary() -> Tensor:
            losses = [task.adversary_loss(adversaries[task.name], outputs[task.name]) for task in contested]
            return torch.stack(losses).sum()

        contested = [
            task
            for task in model.active()
            if task.name in adversaries and step % task.adversary_interval == 0
        ]
        return StepLoss(total, values, adversary if contested else None)

    def batch_norm(self) -> tuple[nn.Module, Iterator[Tensor]]:
        """The network, on the patches of 20 batches."""
        batches = enumerate(self.data.batches(self._settings.batch_size, 0, 20))
        step, device = -2, self._device  # training's steps are 0 and more, and validation's is -1
        made = (self.model.prepare(batch.to(device), step, number) for number, batch in batches)
        return self.model.network, (example.crops.patches for example in made)

    def validate(self) -> dict[str, float]:
        """The metrics of the tasks on val; nothing without such samples."""
        if not len(self._validation):
            return {}
        return validate(self.model, self._validation, self._config, self._device, self.data.broken)


def pretrain(config: Config, layout: Layout, output: Path, resume: str = "auto") -> None:
    """Train stage 1 on the train and unlabelled shards; val only measures, test is not read.

    Continues from the latest checkpoint of the same run, in the middle of an epoch if need be, and
    saves one when SIGTERM or Ctrl-C stops it. Under ``torchrun`` all processes share each batch.
    Writes ``pretrained.safetensors`` (averaged weights), ``metrics.json``, the log, and a record of what they
    were made from: while it is up to date, only `resume`, see `Checkpoints.resume`, as never trains again.

    Raises:
        UserError: a setting of a task is wrong, there are no samples, the loss is not finite, the batch
            cannot be divided into equal micro-batches, or the checkpoint does not fit.
        SystemExit: a signal stopped the run; its state is saved.
    """
    settings, window = config.pretrain, config.trainer.shuffle_shards
    read_settings(settings.tasks)
    with joined() as ranks:
        count = ranks.world * settings.accumulate
        if settings.batch_size % count or settings.batch_size < 2 * count:
            raise UserError(
                f"pretrain.batch_size={settings.batch_size} cannot be divided into {count} equal "
                f"micro-batches of two or more ({ranks.world} processes x "
                f"pretrain.accumulate={settings.accumulate})"
            )
        inputs = made_from(config, layout, ranks)
        is_up_to_date = read_record(output / RECORD, inputs) is not None and (output / FILE).is_file()
        if ranks.broadcast(resume != "never" and is_up_to_date):
            if ranks.first:
                print(f"pretrain: {output} is up to date; add `--resume never` to train again")
            return
        if ranks.first:
            announce_training("pretrain", config.trainer.precision, ranks.world)
            if window % ranks.world:
                print(
                    f"pretrain: {ranks.world} processes do not divide trainer.shuffle_shards={window}, "
                    "so each shard is read by several"
                )
        checkpoints = Checkpoints("pretrain", output / "checkpoints", config, inputs, ranks)
        _train(config, layout, output, checkpoints, resume)
        if ranks.first:
            write_record(output / RECORD, {}, inputs)
        checkpoints.clear()


def made_from(config: Config, layout: Layout, ranks: Ranks) -> dict[str, Any]:
    """What the results of a run depend on: shards, settings, micro-batches of a batch, and code."""
    return {
        "shards": pixels_hash(layout),
        "micro_batches": ranks.world * config.pretrain.accumulate,
        "shuffle_shards": config.trainer.shuffle_shards,
        "precision": config.trainer.precision,
        "network": config.network.model_dump(mode="json"),
        # But what may change within a run; `accumulate` changes the weights, by the micro-batches.
        "pretrain": config.pretrain.model_dump(
            mode="json", exclude={"accumulate", "log_every", "validate_every"}
        ),
        "code": code_hash(__name__),
    }


def _train(config: Config, layout: Layout, output: Path, checkpoints: Checkpoints, resume: str) -> None:
    """From the checkpoint, if there is one, to the results in `output`."""
    settings, ranks = config.pretrain, checkpoints.ranks
    samples = read_samples(layout, ("train", "unlabelled"), config.stream.folder)
    validation = read_validation_samples(layout)
    if not len(validation) and ranks.first:
        print("pretrain: fewer than two samples in the val split, so nothing is validated")
    objective = PretextObjective(config, ranks.device, samples, validation)
    trainer = Trainer(objective, settings, checkpoints, output)
    trainer.fit(resume)
    scores = {name: round(score, 4) for name, score in trainer.kept.scores.items()}
    metrics: dict[str, Any] = {
        "samples": len(samples),
        "steps": settings.steps,
        "numerics": numerics(config.trainer.precision),
        "seconds": round(trainer.clock.seconds, 1),
        "waiting": round(trainer.clock.waiting(), 4),
        "train": {name: round(float(np.mean(values)), 4) for name, values in trainer.recent.items()},
        **({"val": {"samples": len(validation), **scores}} if len(validation) else {}),
        "broken": len(set().union(*ranks.gathered(objective.data.broken.keys))),
        "tasks": [task.description() for task in objective.model.active()],
    }
    if ranks.first:
        save_pretrained(output / FILE, objective.model.network, config)
        write_text(output / "metrics.json", json.dumps(metrics, indent=2) + "\n")
