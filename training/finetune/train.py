"""One run of stage 2: from a classifier's first weights to the averaged ones that are best on val."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch_ema import ExponentialMovingAverage

from common.config import Config, Finetune
from common.progress import progress
from training.data.loader import Batch, load
from training.data.sampler import BatchSampler
from training.data.samples import Samples
from training.data.transforms import resize_images, to_input
from training.engine.batch_norm import measure_batch_norm
from training.engine.device import default_device
from training.engine.optim import adam_by_group, check_finite, set_rate
from training.engine.seeds import set_seed
from training.finetune.augment import augment
from training.finetune.model_selection import Best, ValidationSamples
from training.finetune.semi_supervised import Teacher
from training.models.classifier import GROUPS, Classifier, attribute_loss


@dataclass(frozen=True)
class Run:
    """What to train on.

    Attributes:
        name: for the progress bar.
        steps: optimisation steps.
        frozen_steps: of them, those before a trained backbone starts to learn.
        initial: where the first weights come from; from scratch all parts learn at one rate.
        labelled: the faces whose labels are used.
        unlabelled: faces that are used without labels, or None.
    """

    name: str
    steps: int
    frozen_steps: int
    initial: str
    labelled: Samples
    unlabelled: Samples | None


def fit(config: Config, model: Classifier, run: Run, val: ValidationSamples) -> dict[str, object]:
    """Train `model` in place and leave it with the averaged weights that are best on val.

    Returns:
        ``seconds``, the last ``loss``, ``chosen_step`` and ``val_average_precision`` (None without val).

    Raises:
        UserError: a loss is not finite.
    """
    settings, steps, place = config.finetune, run.steps, default_device()
    model.to(place).to(memory_format=torch.channels_last)
    optimizer = adam_by_group(
        model.parameter_groups(), rates(settings, run.initial), settings.optimizer.weight_decay
    )
    average = ExponentialMovingAverage(model.parameters(), settings.average_decay)
    attributes = torch.from_numpy(run.labelled.attributes).to(place)
    lessons = _lessons(config, model, average, attributes, run)
    generator = set_seed(settings.seed)
    best, began = Best(), time.monotonic()
    bar = progress(f"finetune {run.name}", steps * settings.batch_size, "faces")
    model.train()
    for step, batch in enumerate(_batches(config, run.labelled, settings.batch_size, steps)):
        set_rate(optimizer, settings.optimizer, step, steps)
        if run.initial != "scratch" and step in (0, run.frozen_steps):
            for parameter in model.parameter_groups()["backbone"]:
                parameter.requires_grad_(step >= run.frozen_steps and settings.rates.backbone > 0)
        faces = augment(_resized(config, batch, place), settings.augment, generator)
        loss = attribute_loss(
            _logits(config, model, faces), attributes[batch.indices.to(place)], model.groups
        )
        check_finite(loss, step, [run.labelled.keys[i] for i in batch.indices.tolist()])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if run.unlabelled is not None and step >= _first(config, steps):
            semi = settings.semi_supervised
            faces, answers = next(lessons)
            logits = _logits(config, model, augment(faces, semi.augment, generator))
            (semi.weight * attribute_loss(logits, answers, model.groups)).backward()
        optimizer.step()
        average.update()
        bar.update(settings.batch_size, f"loss {loss.item():.3f}")
        every = settings.validate_every
        if step + 1 == steps or (every is not None and (step + 1) % every == 0):
            average.store()
            average.copy_to()
            _measure(config, model, run.labelled, place)
            best.offer(step + 1, None if every is None else val.score(model, place), model.state_dict)
            average.restore()
    bar.close()
    model.load_state_dict(best.state)
    return {
        "seconds": round(time.monotonic() - began, 1),
        "loss": round(loss.item(), 4),
        "chosen_step": best.step,
        "val_average_precision": None if best.score is None else round(best.score, 4),
    }


def rates(settings: Finetune, initial: str) -> dict[str, float]:
    """The learning rate of each parameter group, before the schedule; 0 freezes the group."""
    if initial == "scratch":
        return dict.fromkeys(GROUPS, settings.scratch_rate)
    return {name: getattr(settings.rates, name) * settings.optimizer.learning_rate for name in GROUPS}


def _first(config: Config, steps: int) -> int:
    return round(config.finetune.semi_supervised.start * steps)


def _lessons(
    config: Config, model: Classifier, average: ExponentialMovingAverage, attributes: Tensor, run: Run
) -> Iterator[tuple[Tensor, Tensor]]:
    """Unlabelled faces and the teacher's present answers, a batch per step that has any."""
    if run.unlabelled is None:
        return
    settings, place = config.finetune.semi_supervised, attributes.device
    teacher = Teacher(model, average, attributes, settings)
    count = run.steps - _first(config, run.steps)
    for batch in _batches(config, run.unlabelled, settings.batch_size, count):
        faces = _resized(config, batch, place)
        with _autocast(config, place):
            answers = teacher.pseudo_labels(to_input(faces, config.network.input_size))
        yield faces, answers


def _autocast(config: Config, place: torch.device) -> torch.autocast:
    return torch.autocast(place.type, torch.bfloat16, enabled=config.finetune.precision == "bfloat16")


def _resized(config: Config, batch: Batch, place: torch.device) -> Tensor:
    return resize_images(batch.images.to(place), config.network.input_size)


def _logits(config: Config, model: Classifier, faces: Tensor) -> Tensor:
    with _autocast(config, faces.device):
        return model(to_input(faces, config.network.input_size))


def _measure(config: Config, model: Classifier, faces: Samples, place: torch.device) -> None:
    """Measure batch-norm statistics on unchanged labelled faces, each at most once."""
    settings = config.finetune
    count = min(settings.batch_norm_batches, -(-len(faces) // settings.batch_size))
    plain = (_resized(config, batch, place) for batch in _batches(config, faces, settings.batch_size, count))
    measure_batch_norm(model, lambda pictures: _logits(config, model, pictures), plain)


def _batches(config: Config, faces: Samples, batch_size: int, steps: int) -> Iterator[Batch]:
    settings = config.finetune
    planned = BatchSampler(faces.shards, settings.seed, settings.shuffle_shards, batch_size, 0, steps)
    return load(faces, planned, {"jpg"}, settings.loader_workers, config.stream)
