"""The training loop of stage 2: from initial weights to the averaged weights that score best on val."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch_ema import ExponentialMovingAverage

from common.config import Finetune
from common.pipeline_config import Stream
from common.progress import progress
from training.data.loader import Batch, load
from training.data.sampler import BatchSampler
from training.data.samples import Samples
from training.data.transforms import resize_images, to_input
from training.engine.batch_norm import measure_batch_norm
from training.engine.device import autocast, default_device, gradient_scaler
from training.engine.optim import adam_by_group, check_finite, set_rate
from training.engine.seeds import set_seed
from training.finetune.augment import augment
from training.finetune.model_selection import BestWeights, ValidationSet
from training.finetune.semi_supervised import Teacher
from training.models.classifier import GROUPS, Classifier, attribute_loss


@dataclass(frozen=True)
class TrainingPlan:
    """What one run trains on, and for how long.

    Attributes:
        name: the run's name, for the progress bar.
        initial: where the initial weights come from; from ``scratch`` all groups have one learning rate.
        steps: optimisation steps.
        frozen_steps: how many of them pass before a trained backbone is trained further.
        labelled: the samples whose labels are used.
        unlabelled: samples that are used without labels, or None.
        batch_norm: samples on which the statistics of the kept weights are measured.
    """

    name: str
    initial: str
    steps: int
    frozen_steps: int
    labelled: Samples
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
    settings: Finetune, stream: Stream, model: Classifier, plan: TrainingPlan, val: ValidationSet
) -> TrainingResult:
    """Train `model` in place and leave it with the averaged weights that score best on val.

    Raises:
        UserError: a loss is not finite.
    """
    run = _Run(settings, stream, model, plan)
    best, started = BestWeights(), time.monotonic()
    bar = progress(f"finetune {plan.name}", plan.steps * settings.batch_size, "faces")
    for step, batch in enumerate(run.labelled_batches(plan.steps)):
        set_rate(run.optimizer, settings.optimizer, step, plan.steps)
        run.freeze_backbone(step)
        run.optimizer.zero_grad(set_to_none=True)
        loss = run.supervised_loss(batch)
        check_finite(loss, step, [plan.labelled.keys[i] for i in batch.indices.tolist()])
        run.scaler.scale(loss).backward()
        if run.uses_pseudo_labels(step):
            run.scaler.scale(run.semi_supervised_loss()).backward()
        run.scaler.step(run.optimizer)
        run.scaler.update()
        run.average.update()
        bar.update(settings.batch_size, f"loss {loss.item():.3f}")
        if run.validates_after(step):
            with run.average.average_parameters():
                run.measure_batch_norm()
                score = None if settings.validate_every is None else val.score(model, run.device)
                best.offer(step + 1, score, model.state_dict)
    bar.close()
    model.load_state_dict(best.weights)
    return TrainingResult(
        seconds=round(time.monotonic() - started, 1),
        loss=round(loss.item(), 4),
        chosen_step=best.step,
        val_average_precision=None if best.score is None else round(best.score, 4),
    )


def learning_rates(settings: Finetune, initial: str) -> dict[str, float]:
    """The learning rate of each parameter group, before the schedule; 0 freezes the group."""
    if initial == "scratch":
        return dict.fromkeys(GROUPS, settings.scratch_rate)
    return {name: getattr(settings.rates, name) * settings.optimizer.learning_rate for name in GROUPS}


class _Run:
    """What one run trains with: model, optimiser, averaged weights, batches."""

    def __init__(self, settings: Finetune, stream: Stream, model: Classifier, plan: TrainingPlan) -> None:
        self._settings, self._stream, self._plan = settings, stream, plan
        self.device = default_device()
        self._model = model.to(self.device).to(memory_format=torch.channels_last)
        self._model.train()
        rates = learning_rates(settings, plan.initial)
        self.optimizer = adam_by_group(model.parameter_groups(), rates, settings.optimizer.weight_decay)
        self.average = ExponentialMovingAverage(model.parameters(), settings.average_decay)
        self.scaler = gradient_scaler(self.device, settings.precision)
        self._labels = torch.from_numpy(plan.labelled.attributes).to(self.device)
        self._generator = set_seed(settings.seed)
        self._first_pseudo_step = round(settings.semi_supervised.start * plan.steps)
        self._pseudo_label_batches = self._make_pseudo_label_batches()

    def labelled_batches(self, steps: int) -> Iterator[Batch]:
        """The batches of the first `steps` steps."""
        return self._batches(self._plan.labelled, self._settings.batch_size, steps)

    def freeze_backbone(self, step: int) -> None:
        """Freeze a trained backbone before step 0, and release it after ``frozen_steps``."""
        plan = self._plan
        if plan.initial != "scratch" and step in (0, plan.frozen_steps):
            trains = step >= plan.frozen_steps and self._settings.rates.backbone > 0
            for parameter in self._model.parameter_groups()["backbone"]:
                parameter.requires_grad_(trains)

    def supervised_loss(self, batch: Batch) -> Tensor:
        """The loss of augmented labelled images."""
        images = augment(self._resized(batch), self._settings.augment, self._generator)
        return attribute_loss(
            self._logits(images), self._labels[batch.indices.to(self.device)], self._model.groups
        )

    def uses_pseudo_labels(self, step: int) -> bool:
        """Whether the step has a batch of unlabelled images too."""
        return self._plan.unlabelled is not None and step >= self._first_pseudo_step

    def semi_supervised_loss(self) -> Tensor:
        """The weighted loss of strongly augmented unlabelled images against the teacher's targets."""
        settings = self._settings.semi_supervised
        images, targets = next(self._pseudo_label_batches)
        logits = self._logits(augment(images, settings.augment, self._generator))
        return settings.weight * attribute_loss(logits, targets, self._model.groups)

    def validates_after(self, step: int) -> bool:
        """Whether the averaged weights are measured after this step; always after the last."""
        every = self._settings.validate_every
        return step + 1 == self._plan.steps or (every is not None and (step + 1) % every == 0)

    def measure_batch_norm(self) -> None:
        """Measure batch-norm statistics on images that are not augmented, each at most once."""
        settings, samples = self._settings, self._plan.batch_norm
        count = min(settings.batch_norm_batches, -(-len(samples) // settings.batch_size))
        batches = self._batches(samples, settings.batch_size, count)
        images = (self._resized(batch) for batch in batches)
        measure_batch_norm(self._model, self._logits, images)

    def _make_pseudo_label_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Unlabelled images and the present teacher's targets, a batch per step that uses them."""
        settings, unlabelled = self._settings.semi_supervised, self._plan.unlabelled
        if unlabelled is None:
            return
        teacher = Teacher(self._model, self.average, self._labels, settings)
        steps = self._plan.steps - self._first_pseudo_step
        for batch in self._batches(unlabelled, settings.batch_size, steps):
            images = self._resized(batch)
            with autocast(self.device, self._settings.precision):
                targets = teacher.targets(to_input(images, self._model.config.input_size))
            yield images, targets

    def _batches(self, samples: Samples, batch_size: int, steps: int) -> Iterator[Batch]:
        settings = self._settings
        batches = BatchSampler(samples.shards, settings.seed, settings.shuffle_shards, batch_size, 0, steps)
        return load(samples, batches, {"jpg"}, settings.loader_workers, self._stream)

    def _resized(self, batch: Batch) -> Tensor:
        return resize_images(batch.images.to(self.device), self._model.config.input_size)

    def _logits(self, images: Tensor) -> Tensor:
        with autocast(self.device, self._settings.precision):
            return self._model(to_input(images, self._model.config.input_size))
