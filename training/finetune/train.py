"""The training loop of stage 2: from initial weights to the averaged weights that score best on val."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch_ema import ExponentialMovingAverage

from common.config import Config, Optimizer
from common.progress import progress
from training.data.broken import BrokenSamples
from training.data.loader import Batch, load
from training.data.sampler import BatchSampler
from training.data.samples import Samples
from training.data.transforms import resize_images, to_input
from training.engine.batch_norm import measure_batch_norm
from training.engine.device import autocast, gradient_scaler
from training.engine.distributed import Ranks
from training.engine.optim import LossCheck, adam_by_group, set_rate
from training.engine.resume import Checkpoints
from training.engine.seeds import keyed_generator, seed_micro_batch
from training.engine.signals import StopRequest
from training.methods.augment import augment
from training.methods.model_selection import BestWeights, ValidationSet
from training.models.attribute_network import AttributeNetwork, attribute_loss

CHECK_EVERY: Final = 10
"""Steps between two readings of the losses, for which the device waits."""

BATCH_NORM_BATCHES: Final = 20
"""Batches of faces on which the batch-norm statistics of the averaged weights are measured."""

WEIGHT_DECAY: Final = 0.00005
WARMUP: Final = 0.1
"""Of the published settings."""


@dataclass(frozen=True)
class TrainingPlan:
    """What one run trains on, and for how long.

    Attributes:
        name: the run's name, for the progress bar.
        rates: the learning rate of each parameter group; 0 freezes the group.
        steps: optimisation steps.
        labelled: the samples whose targets are used.
        targets: int8 or float32 (N, A), of `labelled`: 0, 1 or a probability; -1 where unknown.
        batch_size: of `labelled`, over all processes.
        batch_norm: samples on which the statistics of the kept weights are measured.
    """

    name: str
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
        seconds: wall-clock time.
        loss: of the last step's labelled batch.
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
    request: StopRequest,
) -> TrainingResult:
    """Train `model` in place and leave it with the averaged weights that score best on val.

    Args:
        config: of stage 2, the trainer and the loader.
        model, plan, val: what is trained, on what, and what it is judged on.
        checkpoints: of this run; its processes share each batch.
        resume: what to do about a checkpoint, see `Checkpoints.resume`.
        request: whether to stop.

    Raises:
        UserError: a loss is not finite, or the checkpoint does not fit.
        SystemExit: a signal stopped the run; its state is saved.
    """
    ranks = checkpoints.ranks
    run = _Run(config, model, plan, ranks)
    start, size = checkpoints.resume(run, resume), plan.batch_size
    title = f"finetune {plan.name}"
    bar = progress(title, plan.steps * size, "faces", start * size, enabled=ranks.first)
    loader, began = run.labelled_batches(start, plan.steps), time.monotonic() - run.seconds
    with checkpoints.saving_on_error(run):
        run.validate_due(val)  # an error may have hit this validation
        for step in range(start, plan.steps):
            with ranks.failing_together():
                batch = next(loader)
            run.train_step(batch, step)
            if (step + 1) % CHECK_EVERY == 0:
                run.check_losses()
            run.seconds = time.monotonic() - began
            bar.update(size, str(run.losses))
            run.validate_due(val)
            checkpoints.save_due(run, ranks.maximum(request.number))
    bar.close()
    model.load_state_dict(run.best.weights)
    score = run.best.score
    return TrainingResult(
        seconds=round(time.monotonic() - began, 1),
        loss=round(run.losses.last, 4),
        chosen_step=run.best.step,
        val_average_precision=None if score is None else round(score, 4),
    )


class _Run:
    """What one run trains with: model, optimiser, averaged weights, batches.

    Each process takes its share of every batch, and gradients are averaged over the processes: the mean over
    a batch is that of the means over the shares, which differ in weight if labels are missing.

    Attributes:
        average: moving average of the model's parameters.
        best: the weights that scored best so far.
        done: how many steps are done; None while the weights change, and if a loss is not finite.
        losses: of the labelled batches in this process, since they were last checked.
        seconds: the time that all steps took.
    """

    def __init__(self, config: Config, model: AttributeNetwork, plan: TrainingPlan, ranks: Ranks) -> None:
        settings, stream = config.finetune, config.stream
        self._trainer, self._optimizer_settings = (
            config.trainer,
            Optimizer(
                learning_rate=settings.learning_rate,
                weight_decay=WEIGHT_DECAY,
                warmup=WARMUP,
                schedule=settings.schedule,
            ),
        )
        self._settings, self._stream, self._plan, self._ranks = settings, stream, plan, ranks
        self._model: AttributeNetwork = ranks.synchronise_batch_norm(  # type: ignore[assignment]
            model.to(ranks.device).to(memory_format=torch.channels_last)
        )
        self._model.train()
        self._optimizer = adam_by_group(model.parameter_groups(), plan.rates, WEIGHT_DECAY)
        self.average = ExponentialMovingAverage(model.parameters(), settings.average_decay)
        self._scaler = gradient_scaler(ranks.device, self._trainer.precision)
        self._labels = torch.from_numpy(plan.targets).to(ranks.device)
        self._broken = BrokenSamples(stream.max_broken)
        self.losses = LossCheck(plan.labelled.keys)
        self.best, self.seconds, self._validated = BestWeights(), 0.0, 0
        self.done: int | None = 0

    def labelled_batches(self, start: int, stop: int) -> Iterator[Batch]:
        """The shares that this process has of the batches of steps `start` to `stop`."""
        return self._batches(self._plan.labelled, self._plan.batch_size, start, stop, self._ranks)

    def train_step(self, batch: Batch, step: int) -> None:
        """One optimisation step."""
        set_rate(self._optimizer, self._optimizer_settings, step, self._plan.steps)
        seed_micro_batch(self._settings.seed, step, self._ranks.rank)
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._supervised_loss(batch, step)
        self.losses.add(loss, step, batch.indices)
        self._scaler.scale(loss).backward()
        self._ranks.average_gradients(self._model)
        self.done = None
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self.average.update()
        self.done = step + 1

    def check_losses(self) -> None:
        """Read the losses of the steps since the last check.

        Raises:
            UserError: one is not finite; the weights that followed from it are not saved.
        """
        done, self.done = self.done, None
        self.losses.check()
        self.done = done

    def validate_due(self, val: ValidationSet) -> None:
        """Score the averaged weights if that is due after the steps that are done, and has not been done."""
        every, done = self._settings.validate_every, self.done or 0
        every = every if self._settings.select == "val" else None
        due = done == self._plan.steps or (every is not None and done > 0 and done % every == 0)
        if not due or self._validated == done:
            return
        self.check_losses()
        with self.average.average_parameters():
            self._measure_batch_norm()
            score = None if every is None else val.score(self._model, self._ranks.device)
            self.best.offer(done, score, self._model.state_dict)
        self._validated = done

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, besides its number, and what has been measured.

        Raises:
            UserError: a loss is not finite.
        """
        self.check_losses()
        return {
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "average": self.average.state_dict(),
            "scaler": self._scaler.state_dict(),
            "best": vars(self.best),
            "measured": (self.losses.last, self.seconds, self._validated),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken."""
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.average.load_state_dict(state["average"])
        self._scaler.load_state_dict(state["scaler"])
        vars(self.best).update(state["best"])
        self.losses.last, self.seconds, self._validated = state["measured"]

    def _supervised_loss(self, batch: Batch, step: int) -> Tensor:
        """The loss of augmented labelled images."""
        generator = keyed_generator(self._settings.seed, step, self._ranks.rank, "labelled")
        images = augment(self._resized(batch), generator)
        targets = self._labels[batch.indices.to(self._ranks.device, non_blocking=True)]
        return attribute_loss(self._logits(images), targets, self._model.groups)

    def _measure_batch_norm(self) -> None:
        """Measure batch-norm statistics on images that are not augmented, each at most once.

        All processes measure the same batches.
        """
        settings, samples = self._settings, self._plan.batch_norm
        count = min(BATCH_NORM_BATCHES, -(-len(samples) // settings.batch_size))
        batches = self._batches(samples, settings.batch_size, 0, count)
        measure_batch_norm(self._model, self._logits, (self._resized(batch) for batch in batches))

    def _batches(
        self, samples: Samples, batch_size: int, start: int, stop: int, ranks: Ranks | None = None
    ) -> Iterator[Batch]:
        """The planned batches; with `ranks` this process's shares."""
        trainer = self._trainer
        rank, world = (ranks.rank, ranks.world) if ranks else (0, 1)
        batches = BatchSampler(
            samples.shards, self._settings.seed, trainer.shuffle_shards, batch_size, start, stop, rank, world
        )
        return load(samples, batches, {"jpg"}, trainer.loader_workers, self._stream, self._broken)

    def _resized(self, batch: Batch) -> Tensor:
        return resize_images(
            batch.images.to(self._ranks.device, non_blocking=True), self._model.config.input_size
        )

    def _logits(self, images: Tensor) -> Tensor:
        with autocast(self._ranks.device, self._trainer.precision):
            return self._model(to_input(images, self._model.config.input_size))
