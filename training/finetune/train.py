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

from common.config import Finetune
from common.pipeline_config import Stream
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
from training.finetune.augment import augment
from training.finetune.model_selection import BestWeights, ValidationSet
from training.finetune.semi_supervised import PseudoLabelThresholds, Teacher, positive_shares
from training.models.classifier import GROUPS, Classifier, attribute_loss

CHECK_EVERY: Final = 10
"""Steps between two readings of the losses, for which the device waits."""

UNIFORM_RATE: Final = ("scratch", "student")
"""Initialisations whose parameters are all trained at ``finetune.scratch_rate``."""


@dataclass(frozen=True)
class TrainingPlan:
    """What one run trains on, and for how long.

    Attributes:
        name: the run's name, for the progress bar.
        initial: where the initial weights come from.
        steps: optimisation steps.
        frozen_steps: how many of them pass before a trained backbone is trained further.
        labelled: the samples whose targets are used.
        targets: int8 or float32 (N, A), of `labelled`: 0, 1 or a probability; -1 where unknown.
        batch_size: of `labelled`, over all processes.
        unlabelled: samples that are used without labels, or None.
        batch_norm: samples on which the statistics of the kept weights are measured.
    """

    name: str
    initial: str
    steps: int
    frozen_steps: int
    labelled: Samples
    targets: NDArray[np.int8] | NDArray[np.float32]
    batch_size: int
    unlabelled: Samples | None
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
    settings: Finetune,
    stream: Stream,
    model: Classifier,
    plan: TrainingPlan,
    val: ValidationSet,
    checkpoints: Checkpoints,
    resume: str,
    request: StopRequest,
) -> TrainingResult:
    """Train `model` in place and leave it with the averaged weights that score best on val.

    Args:
        settings, stream: of stage 2, and of the loader.
        model, plan, val: what is trained, on what, and what it is judged on.
        checkpoints: of this run; its processes share each batch.
        resume: what to do about a checkpoint, see `Checkpoints.resume`.
        request: whether to stop.

    Raises:
        UserError: a loss is not finite, or the checkpoint does not fit.
        SystemExit: a signal stopped the run; its state is saved.
    """
    ranks = checkpoints.ranks
    run = _Run(settings, stream, model, plan, ranks)
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


def learning_rates(settings: Finetune, initial: str) -> dict[str, float]:
    """The learning rate of each parameter group, before the schedule; 0 freezes the group."""
    if initial in UNIFORM_RATE:
        return dict.fromkeys(GROUPS, settings.scratch_rate)
    return {name: getattr(settings.rates, name) * settings.optimizer.learning_rate for name in GROUPS}


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

    def __init__(
        self, settings: Finetune, stream: Stream, model: Classifier, plan: TrainingPlan, ranks: Ranks
    ) -> None:
        self._settings, self._stream, self._plan, self._ranks = settings, stream, plan, ranks
        self._model: Classifier = ranks.synchronise_batch_norm(  # type: ignore[assignment]
            model.to(ranks.device).to(memory_format=torch.channels_last)
        )
        self._model.train()
        self._rates = learning_rates(settings, plan.initial)
        groups = model.parameter_groups()
        self._optimizer = adam_by_group(groups, self._rates, settings.optimizer.weight_decay)
        self.average = ExponentialMovingAverage(model.parameters(), settings.average_decay)
        self._scaler = gradient_scaler(ranks.device, settings.precision)
        self._labels = torch.from_numpy(plan.targets).to(ranks.device)
        self._broken = BrokenSamples(stream.max_broken)
        self._first_pseudo_step = round(settings.semi_supervised.start * plan.steps)
        semi = settings.semi_supervised
        self._thresholds = PseudoLabelThresholds(positive_shares(self._labels), semi.keep, semi.recent, ranks)
        self._pseudo_label_batches = self._make_pseudo_label_batches()
        self.losses = LossCheck(plan.labelled.keys)
        self.best, self.seconds, self._validated = BestWeights(), 0.0, 0
        self.done: int | None = 0

    def labelled_batches(self, start: int, stop: int) -> Iterator[Batch]:
        """The shares that this process has of the batches of steps `start` to `stop`."""
        return self._batches(self._plan.labelled, self._plan.batch_size, start, stop, self._ranks)

    def train_step(self, batch: Batch, step: int) -> None:
        """One optimisation step, with a batch of unlabelled images too once the plan has them."""
        set_rate(self._optimizer, self._settings.optimizer, step, self._plan.steps)
        seed_micro_batch(self._settings.seed, step, self._ranks.rank)
        self._freeze_backbone(step)
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._supervised_loss(batch, step)
        self.losses.add(loss, step, batch.indices)
        self._scaler.scale(loss).backward()
        if self._plan.unlabelled is not None and step >= self._first_pseudo_step:
            self._scaler.scale(self._semi_supervised_loss(step)).backward()
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
            "thresholds": self._thresholds.recent,
            "best": vars(self.best),
            "measured": (self.losses.last, self.seconds, self._validated),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken."""
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.average.load_state_dict(state["average"])
        self._scaler.load_state_dict(state["scaler"])
        self._thresholds.recent = state["thresholds"].to(self._ranks.device)
        vars(self.best).update(state["best"])
        self.losses.last, self.seconds, self._validated = state["measured"]

    def _freeze_backbone(self, step: int) -> None:
        """Freeze a trained backbone until ``frozen_steps``."""
        if self._plan.initial != "scratch":
            trains = step >= self._plan.frozen_steps and self._rates["backbone"] > 0
            for parameter in self._model.parameter_groups()["backbone"]:
                parameter.requires_grad_(trains)

    def _supervised_loss(self, batch: Batch, step: int) -> Tensor:
        """The loss of augmented labelled images."""
        generator = keyed_generator(self._settings.seed, step, self._ranks.rank, "labelled")
        images = augment(self._resized(batch), self._settings.augment, generator)
        targets = self._labels[batch.indices.to(self._ranks.device, non_blocking=True)]
        return attribute_loss(self._logits(images), targets, self._model.groups)

    def _semi_supervised_loss(self, step: int) -> Tensor:
        """The weighted loss of strongly augmented unlabelled images against the teacher's targets."""
        settings = self._settings.semi_supervised
        with self._ranks.failing_together():
            batch = next(self._pseudo_label_batches)
        images, targets = batch
        generator = keyed_generator(self._settings.seed, step, self._ranks.rank, "unlabelled")
        logits = self._logits(augment(images, settings.augment, generator))
        return settings.weight * attribute_loss(logits, targets, self._model.groups)

    def _measure_batch_norm(self) -> None:
        """Measure batch-norm statistics on images that are not augmented, each at most once.

        All processes measure the same batches.
        """
        settings, samples = self._settings, self._plan.batch_norm
        count = min(settings.batch_norm_batches, -(-len(samples) // settings.batch_size))
        batches = self._batches(samples, settings.batch_size, 0, count)
        measure_batch_norm(self._model, self._logits, (self._resized(batch) for batch in batches))

    def _make_pseudo_label_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Unlabelled images and the present teacher's targets, a batch per step that uses them."""
        settings, unlabelled = self._settings.semi_supervised, self._plan.unlabelled
        if unlabelled is None:
            return
        teacher = Teacher(self._model, self.average, self._thresholds, settings.soft)
        first = self._first_pseudo_step
        start, stop = max(0, (self.done or 0) - first), self._plan.steps - first
        for batch in self._batches(unlabelled, settings.batch_size, start, stop, self._ranks):
            images = self._resized(batch)
            with autocast(self._ranks.device, self._settings.precision):
                targets = teacher.targets(to_input(images, self._model.config.input_size))
            yield images, targets

    def _batches(
        self, samples: Samples, batch_size: int, start: int, stop: int, ranks: Ranks | None = None
    ) -> Iterator[Batch]:
        """The planned batches; with `ranks` this process's shares."""
        settings = self._settings
        rank, world = (ranks.rank, ranks.world) if ranks else (0, 1)
        batches = BatchSampler(
            samples.shards, settings.seed, settings.shuffle_shards, batch_size, start, stop, rank, world
        )
        return load(samples, batches, {"jpg"}, settings.loader_workers, self._stream, self._broken)

    def _resized(self, batch: Batch) -> Tensor:
        return resize_images(
            batch.images.to(self._ranks.device, non_blocking=True), self._model.config.input_size
        )

    def _logits(self, images: Tensor) -> Tensor:
        with autocast(self._ranks.device, self._settings.precision):
            return self._model(to_input(images, self._model.config.input_size))
