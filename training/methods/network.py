"""What the methods that train a network share: the initial network, its objective, and the training.

``scratch`` does no more than this: its network starts from random weights.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from training.data.loader import Batch, BrokenSamples, TrainingData, load
from training.data.sampler import sequential_batches
from training.data.samples import Samples
from training.engine.device import autocast, keyed_generator, numerics, set_seed
from training.engine.objective import Objective, StepLoss, mean_average_precision
from training.engine.optim import ParameterGroups
from training.engine.trainer import Trainer
from training.methods.method import Context, Method, Run
from training.models.attribute_network import AttributeNetwork, attribute_loss
from training.models.blocks import resize_images, to_input
from training.models.classifier import Classifier, NetworkClassifier

# Settings of ``finetune`` that all these methods read.
NETWORK_SETTINGS: Final = (
    *("batch_size", "learning_rate", "schedule", "average_decay"),
    *("select", "validate_every", "groups"),
)
WEIGHT_DECAY: Final = 0.00005  # As published


def initial_network(context: Context) -> AttributeNetwork:
    """The configured network with random weights, the same for the same seed."""
    set_seed(context.settings.seed)
    return AttributeNetwork(context.config.network, context.train.attribute_names, context.groups)


def train_network(
    context: Context, run: Run, model: AttributeNetwork, rates: Mapping[str, float]
) -> tuple[Classifier, dict[str, Any]]:
    """Train `model`, in place, and give the averaged weights that score best on val and how it went.

    The learning rates of parameter groups are multiplied with `rates`; 0 freezes a group.

    Returns:
        The classifier, and ``steps``, ``numerics``, ``seconds`` without validations, ``loss`` of the last
        step, ``chosen_step`` and its ``val_average_precision``, None if val chose nothing.

    Raises:
        UserError: processes cannot share a batch evenly, a loss is not finite, or a checkpoint does not fit.
        SystemExit: a signal stopped the run; its state is saved.
    """
    settings, world, size = context.settings, context.ranks.world, context.settings.batch_size
    if world > 1 and (size % world or size < 2 * world):
        raise UserError(
            f"{run.name}: batches of {size} faces cannot be divided into {world} equal parts of two or more; "
            "change finetune.batch_size or the number of processes"
        )
    plan = {
        **settings.model_dump(include={"seed", "batch_size", "schedule", "average_decay"}),
        "steps": run.steps,
        "weight_decay": WEIGHT_DECAY,
        "log_every": 10,  # the device waits when losses are read
        "validate_every": settings.validate_every if len(context.val) else None,
        "accumulate": 1,
        "clip_norm": None,
    }
    objective = AttributeObjective(context, run, model, rates)
    trainer = Trainer(objective, context.config.pretrain.model_copy(update=plan), run.checkpoints)
    trainer.fit(context.resume)
    score = trainer.kept.score
    return NetworkClassifier(attributes=model.attributes, model=model.cpu()), {
        "steps": run.steps,
        "numerics": numerics(context.config.trainer.precision),
        "seconds": round(trainer.clock.seconds, 1),
        "loss": round(trainer.losses.last, 4),
        "chosen_step": trainer.kept.step,
        "val_average_precision": None if score is None else round(score, 4),
    }


def network_inputs(
    context: Context, model: AttributeNetwork, samples: Samples, batch_size: int, broken: BrokenSamples
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images at the network's size, and indices in `samples`, since others replace those in `broken`."""
    config, batches = context.config, sequential_batches(samples, batch_size)
    for batch in load(samples, batches, {"jpg"}, config.trainer.loader_workers, config.stream, broken):
        yield to_input(batch.images.to(context.ranks.device), model.config.input_size), batch.indices


class AttributeObjective(Objective):
    """The attributes of augmented faces."""

    model: AttributeNetwork
    select = "average_precision"

    def __init__(
        self, context: Context, run: Run, model: AttributeNetwork, rates: Mapping[str, float]
    ) -> None:
        config, self._settings = context.config, context.settings
        self._context, self.model, self._rates = context, model, rates
        self._device, self._precision = context.ranks.device, config.trainer.precision
        broken = BrokenSamples(config.stream.max_broken)
        self.data, self._all_faces = (
            TrainingData(samples, {"jpg"}, self._settings.seed, config, broken)
            for samples in (run.labelled, context.all_faces)
        )
        self._labels = torch.from_numpy(run.labelled.attributes).to(self._device)

    def parameter_groups(self) -> ParameterGroups:
        """Backbone, branches and heads, each with its rate."""
        rate = self._settings.learning_rate
        groups = self.model.parameter_groups()
        return [(parameters, self._rates[name] * rate) for name, parameters in groups.items()]

    def loss(self, forward: Callable[..., Any], batch: Batch, step: int, micro_batch: int) -> StepLoss:
        """The binary cross-entropy of the known labels."""
        generator = keyed_generator(self._settings.seed, step, micro_batch, "labelled")
        size = self.model.config.input_size
        images = augment(resize_images(batch.images, size), generator)
        with autocast(self._device, self._precision):
            logits = forward(to_input(images, size))
        return StepLoss(attribute_loss(logits, self._labels[batch.indices], self.model.groups))

    def batch_norm(self) -> tuple[nn.Module, Iterator[Tensor]]:
        """The network, on at most 20 batches of images, with labels or without, that are not augmented."""
        batch_size, size = self._settings.batch_size, self.model.config.input_size
        count = min(20, -(-len(self._all_faces.samples) // batch_size))
        batches = self._all_faces.batches(batch_size, 0, count)
        return self.model, (to_input(batch.images.to(self._device), size) for batch in batches)

    def validate(self) -> dict[str, float]:
        """Mean average precision on val; nothing if no attribute occurs both present and absent."""
        if not len(self._context.val):
            return {}
        classifier = NetworkClassifier(attributes=self.model.attributes, model=self.model)
        classifier.configure(self._device, self._precision, mirrored=False)
        logits = np.concatenate([classifier.logits(batch) for batch in self._context.val_batches])
        self.model.train()
        score = mean_average_precision(self._context.val.attributes, logits)
        return {} if score is None else {self.select: score}


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flip, rotate, scale, shift and colour-jitter images, each by its own random parameters.

    Half are mirrored and a tenth grey; angles reach 10 degrees, scales change by up to a tenth, translations
    by a twentieth of the side, and brightness, contrast and saturation by a fifth. Float or uint8 0..255,
    (B, 3, S, S), become float32 0..255; the generator is the CPU's.
    """
    images = images.float()
    batch, device = len(images), images.device
    mirrored = (torch.rand(batch, generator=generator) < 0.5).float()
    angle = _uniform(math.radians(10.0), batch, generator)
    scale = 1 + _uniform(0.1, batch, generator)
    sign = 1 - 2 * mirrored
    right, down = (2 * _uniform(0.05, batch, generator) for _ in range(2))
    rows = (
        torch.stack([sign * angle.cos() * scale, -angle.sin() * scale, right], dim=1),
        torch.stack([sign * angle.sin() * scale, angle.cos() * scale, down], dim=1),
    )
    matrices = torch.stack(rows, dim=1).to(device, non_blocking=True)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)

    def factor() -> Tensor:
        return (1 + _uniform(0.2, batch, generator)).to(device, non_blocking=True)[:, None, None, None]

    grey = images.mean(dim=1, keepdim=True)
    greyscale = (torch.rand(batch, generator=generator) < 0.1).to(device, non_blocking=True)
    saturation = factor().masked_fill(greyscale[:, None, None, None], 0)
    images = grey + saturation * (images - grey)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return ((mean + factor() * (images - mean)) * factor()).clamp(0, 255)


def _uniform(reach: float, count: int, generator: torch.Generator) -> Tensor:
    """Uniform numbers between -`reach` and `reach`, float (`count`,)."""
    return reach * (2 * torch.rand(count, generator=generator) - 1)


class Scratch(Method):
    """The baseline of networks."""

    name = "scratch"
    title = "from scratch"
    sentence = "A network starts from random weights and sees the labelled faces alone."
    settings = NETWORK_SETTINGS

    def fit(self, context: Context, run: Run) -> tuple[Classifier, dict[str, Any]]:
        """See `Method.fit`."""
        rates = {"backbone": 1.0, "branches": 1.0, "heads": 1.0}
        return train_network(context, run, initial_network(context), rates)
