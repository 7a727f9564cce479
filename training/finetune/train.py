"""Training a network of attributes on labelled faces."""

from collections.abc import Callable, Mapping
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
from training.engine.trainer import StepLoss, Trainer, TrainingPlan
from training.finetune.augment import augment
from training.finetune.model_selection import ValidationSet
from training.models.attribute_network import GROUPS, AttributeNetwork, attribute_loss

CHECK_EVERY: Final = 10
"""Steps between two readings of the losses, for which the device waits."""

AVERAGE_PRECISION: Final = "average_precision"
"""The score of the val split that chooses the step whose weights are kept."""


@dataclass(frozen=True)
class LabelledFaces:
    """What a network is trained on.

    Attributes:
        samples: the faces whose targets are used.
        targets: int8 or float32 (N, A), of `samples`: 0, 1 or a probability; -1 where unknown.
        batch_norm: samples on which the batch-norm statistics of the kept weights are measured.
        val: what chooses the step whose weights are kept; None: the last step's are.
    """

    samples: Samples
    targets: NDArray[np.int8] | NDArray[np.float32]
    batch_norm: Samples
    val: ValidationSet | None


@dataclass(frozen=True)
class TrainingResult:
    """How a run went.

    Attributes:
        seconds: of all steps, without validations.
        loss: of the last step.
        chosen_step: the step whose weights were kept.
        val_average_precision: mean average precision of these weights on val; None if it was not measured.
    """

    seconds: float
    loss: float
    chosen_step: int
    val_average_precision: float | None


def train_network(
    model: AttributeNetwork,
    faces: LabelledFaces,
    steps: int,
    batch_size: int,
    rates: Mapping[str, float],
    config: Config,
    checkpoints: Checkpoints,
    resume: str = "auto",
) -> TrainingResult:
    """Train `model` in place and leave it, on the device, with the averaged weights that score best on val.

    Args:
        model: with its initial weights.
        faces: what it is trained on.
        steps: optimisation steps.
        batch_size: faces of one of them, over all processes, which it must be a multiple of.
        rates: learning rate of each of `GROUPS` before the schedule; 0 freezes the group.
        config: the sections ``finetune``, ``trainer`` and ``stream``.
        checkpoints: of this run; its processes share each batch.
        resume: what to do about a checkpoint, see `Checkpoints.resume`.

    Raises:
        UserError: a loss is not finite, or the checkpoint does not fit.
        SystemExit: a signal stopped the run; its state is saved.
    """
    settings = config.finetune
    objective = AttributeObjective(model, faces, rates, config, checkpoints.ranks.device)
    plan = TrainingPlan(
        title=checkpoints.title,
        unit="faces",
        seed=settings.seed,
        steps=steps,
        batch_size=batch_size,
        optimizer=settings.optimizer,
        average_decay=settings.average_decay,
        log_every=CHECK_EVERY,
        validate_every=settings.validate_every if faces.val else None,
        select=AVERAGE_PRECISION,
    )
    trainer = Trainer(objective, plan, checkpoints)
    trainer.fit(resume)
    kept = trainer.kept
    return TrainingResult(
        seconds=round(trainer.clock.seconds, 1),
        loss=round(trainer.losses.last, 4),
        chosen_step=kept.step,
        val_average_precision=None if kept.score is None else round(kept.score, 4),
    )


class AttributeObjective:
    """The attributes of augmented faces; see `training.engine.trainer.Objective`."""

    adversary = None

    def __init__(
        self,
        model: AttributeNetwork,
        faces: LabelledFaces,
        rates: Mapping[str, float],
        config: Config,
        device: torch.device,
    ) -> None:
        self.model, self._faces, self._rates, self._device = model, faces, rates, device
        self._settings, self._precision = config.finetune, config.trainer.precision
        self.data = self._data(faces.samples, config, BrokenSamples(config.stream.max_broken))
        self._batch_norm = self._data(faces.batch_norm, config, self.data.broken)
        self._targets = torch.from_numpy(faces.targets).to(device)

    def parameter_groups(self) -> ParameterGroups:
        """Backbone, branches and heads, each with its rate."""
        groups = self.model.parameter_groups()
        return [(groups[name], self._rates[name]) for name in GROUPS]

    def loss(self, forward: Callable[..., Any], batch: Batch, step: int, micro_batch: int) -> StepLoss:
        """The binary cross-entropy of the known targets."""
        generator = keyed_generator(self._settings.seed, step, micro_batch, "labelled")
        images = augment(self._resized(batch), self._settings.augment, generator)
        with autocast(self._device, self._precision):
            logits = forward(to_input(images, self.model.config.input_size))
        return StepLoss(attribute_loss(logits, self._targets[batch.indices], self.model.groups))

    def batch_norm(self) -> tuple[nn.Module, Any]:
        """The network, on images that are not augmented, each at most once."""
        size, samples = self._settings.batch_size, self._faces.batch_norm
        count = min(self._settings.batch_norm_batches, -(-len(samples) // size))
        batches = self._batch_norm.batches(size, 0, count)
        resized = (self._resized(batch.to(self._device)) for batch in batches)
        return self.model, (to_input(images, self.model.config.input_size) for images in resized)

    def validate(self, log: Log, done: int) -> dict[str, float]:
        """Mean average precision on val; nothing if no attribute occurs both present and absent."""
        val = self._faces.val
        score = val.score(self.model, self._device) if val else None
        return {} if score is None else {AVERAGE_PRECISION: score}

    def _data(self, samples: Samples, config: Config, broken: BrokenSamples) -> TrainingData:
        seed = config.finetune.seed
        return TrainingData(samples, {"jpg"}, seed, config.trainer, config.stream, broken)

    def _resized(self, batch: Batch) -> Tensor:
        return resize_images(batch.images, self.model.config.input_size)
