"""Training a network of attributes: from initial weights to the averaged weights that score best on val."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.config import Config
from training.data.broken import BrokenSamples
from training.data.loader import Batch, TrainingData
from training.data.samples import Samples
from training.data.transforms import resize_images, to_input
from training.engine.checkpoint import Checkpoints
from training.engine.device import autocast
from training.engine.logger import Log
from training.engine.optim import ParameterGroups
from training.engine.seeds import keyed_generator
from training.engine.trainer import LoopSettings, StepLoss, Trainer
from training.methods.augment import augment
from training.methods.model_selection import ValidationSet
from training.models.attribute_network import AttributeNetwork, attribute_loss

CHECK_EVERY: Final = 10
"""Steps between two readings of the losses, for which the device waits."""

BATCH_NORM_BATCHES: Final = 20
"""Batches of faces on which the batch-norm statistics of the averaged weights are measured."""

WEIGHT_DECAY: Final = 0.00005
"""As published."""

AVERAGE_PRECISION: Final = "average_precision"
"""The score on val that chooses the step whose weights are kept."""


@dataclass(frozen=True)
class TrainingPlan:
    """What one run trains on, and for how long.

    Attributes:
        rates: the learning rate of each parameter group before the schedule; 0 freezes the group.
        steps: optimisation steps.
        labelled: the samples whose targets are used.
        targets: int8 or float32 (N, A), of `labelled`: 0, 1 or a probability; -1 where unknown.
        batch_size: of `labelled`, over all processes, whose number divides it.
        batch_norm: samples on which the batch-norm statistics of the kept weights are measured.
    """

    rates: Mapping[str, float]
    steps: int
    labelled: Samples
    targets: NDArray[np.int8] | NDArray[np.float32]
    batch_size: int
    batch_norm: Samples


@dataclass(frozen=True)
class TrainingResult:
    """How a run went.

    Attributes:
        seconds: of all steps, without validations.
        loss: of the last step in this process.
        chosen_step: the step whose weights were kept.
        val_average_precision: mean average precision of these weights on val; None if it was not measured.
    """

    seconds: float
    loss: float
    chosen_step: int
    val_average_precision: float | None


def train(
    config: Config,
    model: AttributeNetwork,
    plan: TrainingPlan,
    val: ValidationSet,
    checkpoints: Checkpoints,
    resume: str,
) -> TrainingResult:
    """Train `model` in place; leave it, on the device, with the averaged weights that score best on val.

    Args:
        config: the sections ``finetune``, ``trainer`` and ``stream``.
        model: with its initial weights.
        plan: what it is trained on.
        val: what chooses the step; without pictures, the last step is kept.
        checkpoints: of this run; its processes share each batch.
        resume: what to do about a checkpoint, see `Checkpoints.resume`.

    Raises:
        UserError: a loss is not finite, or the checkpoint does not fit.
        SystemExit: a signal stopped the run; its state is saved.
    """
    settings = config.finetune
    objective = AttributeObjective(config, model, plan, val, checkpoints.ranks.device)
    loop = LoopSettings(
        title=checkpoints.title,
        unit="faces",
        seed=settings.seed,
        steps=plan.steps,
        batch_size=plan.batch_size,
        schedule=settings.schedule,
        weight_decay=WEIGHT_DECAY,
        average_decay=settings.average_decay,
        log_every=CHECK_EVERY,
        validate_every=settings.validate_every if val.images else None,
        select=AVERAGE_PRECISION,
    )
    trainer = Trainer(objective, loop, checkpoints)
    trainer.fit(resume)
    score = trainer.kept.score
    return TrainingResult(
        seconds=round(trainer.clock.seconds, 1),
        loss=round(trainer.losses.last, 4),
        chosen_step=trainer.kept.step,
        val_average_precision=None if score is None else round(score, 4),
    )


class AttributeObjective:
    """The attributes of augmented faces; see `training.engine.trainer.Objective`."""

    adversary = None

    def __init__(
        self,
        config: Config,
        model: AttributeNetwork,
        plan: TrainingPlan,
        val: ValidationSet,
        device: torch.device,
    ) -> None:
        self._settings, self._precision = config.finetune, config.trainer.precision
        self.model, self._plan, self._val, self._device = model, plan, val, device
        seed, stream, broken = config.finetune.seed, config.stream, BrokenSamples(config.stream.max_broken)
        self.data, self._batch_norm = (
            TrainingData(samples, {"jpg"}, seed, config.trainer, stream, broken)
            for samples in (plan.labelled, plan.batch_norm)
        )
        self._targets = torch.from_numpy(plan.targets).to(device)

    def parameter_groups(self) -> ParameterGroups:
        """Backbone, branches and heads, each with its rate."""
        groups = self.model.parameter_groups()
        return [(parameters, self._plan.rates[name]) for name, parameters in groups.items()]

    def loss(self, forward: Callable[..., Any], batch: Batch, step: int, micro_batch: int) -> StepLoss:
        """The binary cross-entropy of the known targets."""
        generator = keyed_generator(self._settings.seed, step, micro_batch, "labelled")
        size = self.model.config.input_size
        images = augment(resize_images(batch.images, size), generator)
        with autocast(self._device, self._precision):
            logits = forward(to_input(images, size))
        return StepLoss(attribute_loss(logits, self._targets[batch.indices], self.model.groups))

    def batch_norm(self) -> tuple[nn.Module, Iterator[Tensor]]:
        """The network, on images that are not augmented, each at most once."""
        batch_size, size = self._settings.batch_size, self.model.config.input_size
        count = min(BATCH_NORM_BATCHES, -(-len(self._plan.batch_norm) // batch_size))
        batches = self._batch_norm.batches(batch_size, 0, count)
        return self.model, (to_input(batch.images.to(self._device), size) for batch in batches)

    def validate(self, log: Log, done: int) -> dict[str, float]:
        """Mean average precision on val; nothing if no attribute occurs both present and absent."""
        score = self._val.score(self.model, self._device)
        return {} if score is None else {AVERAGE_PRECISION: score}
