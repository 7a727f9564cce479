"""How well stage 1 solves its tasks on the val split, with random draws that never change."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.config import Config
from common.layout import Layout
from common.sampling import evenly_spaced
from training.data.loader import BrokenSamples, load
from training.data.samples import Samples, read_samples
from training.engine.device import autocast
from training.pretrain.model import PretrainModel

SAMPLES: Final = 512
"""At most so many samples of val are measured."""

MIN_SAMPLES: Final = 2
"""Batch normalisation needs two."""

VALIDATION_STEP: Final = -1
"""The number of the step that validation draws as; training's are 0 and more."""


def read_validation_samples(layout: Layout) -> Samples:
    """At most `SAMPLES` samples of the val split, evenly spread; none if there are too few."""
    samples = read_samples(layout, ("val",))
    count = SAMPLES if len(samples) >= MIN_SAMPLES else 0
    return samples.take(evenly_spaced(count, len(samples)))


def validate(
    model: PretrainModel, samples: Samples, config: Config, device: torch.device, broken: BrokenSamples
) -> dict[str, float]:
    """The metrics of all tasks on samples that they do not learn from, by ``<task>/<metric>``.

    Batches differ by one sample at most in size and hold at least ``pretrain.batch_size`` samples if there
    are so many, so that none is too small for its statistics. Every call has the same draws.

    Args:
        model: on the device.
        samples: of the val split, at least one.
        config: batch size, precision, loader and the cache of remote shards.
        device: of the model.
        broken: see `training.data.loader.load`.
    """
    count = max(1, len(samples) // config.pretrain.batch_size)
    planned = [batch.tolist() for batch in np.array_split(np.arange(len(samples)), count)]
    workers = config.trainer.loader_workers
    batches = load(samples, planned, model.members(), workers, config.stream, broken)

    def observations() -> Iterator[dict[str, dict[str, Tensor]]]:
        for number, batch in enumerate(batches):
            example = model.prepare(batch.to(device), VALIDATION_STEP, number)
            with batch_statistics(model), autocast(device, config.trainer.precision):
                outputs = model(example.crops.patches, example.targets)
            yield model.observe(outputs, example.targets)

    return model.scores(observations())


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, but each batch is normalised by its own statistics, as in training.

    The inputs of different tasks share the backbone but differ in their statistics; the running ones
    mix them and fit neither. They are not changed here.
    """
    modes = {module: module.training for module in model.modules()}
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    model.eval()
    for layer in layers:
        layer.training, layer.track_running_stats = True, False
    try:
        with torch.no_grad():
            yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
        for module, mode in modes.items():
            module.training = mode
