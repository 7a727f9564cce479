"""How well stage 1 solves its tasks on the val split, with random draws that never change."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.config import Config
from common.layout import Layout
from common.sampling import evenly_spaced
from training.data.loader import BrokenSamples, load
from training.data.samples import Samples, read_samples
from training.engine.device import autocast
from training.pretrain.model import Example, PretrainModel
from training.pretrain.tasks import PretextTask
from training.pretrain.tasks.panel import Column, Image, joined, photo

SAMPLES: Final = 512
"""At most so many samples of val are measured."""

MIN_SAMPLES: Final = 2
"""Batch normalisation needs two."""

ROWS: Final = 6
"""Rows of the image at most."""

VALIDATION_STEP: Final = -1
"""The number of the step that validation draws as; training's are 0 and more."""


def read_validation_samples(layout: Layout) -> Samples | None:
    """At most `SAMPLES` samples of the val split, evenly spread; None if there are too few."""
    samples = read_samples(layout, ("val",))
    return samples.take(evenly_spaced(SAMPLES, len(samples))) if len(samples) >= MIN_SAMPLES else None


class Validator:
    """Measures and draws a model on samples that it does not learn from.

    Args:
        samples: of the val split.
        config: batch size, precision, loader and the cache of remote shards.
        device: of the model.
        broken: see `training.data.loader.load`.
    """

    def __init__(self, samples: Samples, config: Config, device: torch.device, broken: BrokenSamples) -> None:
        self.samples, self._config, self._device, self._broken = samples, config, device, broken

    def predictions(
        self, model: PretrainModel
    ) -> Iterator[tuple[NDArray[np.int64], Example, dict[str, dict[str, Tensor]]]]:
        """Indices, examples and outputs, batch by batch; the same draws at every call.

        Batches differ by one sample at most in size and hold at least ``batch_size`` samples if there are
        so many, so that none is too small for its statistics.
        """
        config = self._config
        count = max(1, len(self.samples) // config.pretrain.batch_size)
        indices = np.array_split(np.arange(len(self.samples)), count)
        planned, workers = (batch.tolist() for batch in indices), config.trainer.loader_workers
        batches = load(self.samples, planned, model.members(), workers, config.stream, self._broken)
        for number, batch in enumerate(batches):
            example = model.prepare(batch.to(self._device), VALIDATION_STEP, number)
            with batch_statistics(model), autocast(self._device, config.trainer.precision):
                outputs = model(example.crops.patches, example.targets)
            yield indices[number], example, outputs

    def scores(self, model: PretrainModel) -> dict[str, float]:
        """The metrics of all tasks by ``<task>/<metric>``."""
        return model.scores(
            model.observe(outputs, example.targets) for _, example, outputs in self.predictions(model)
        )

    def image(self, model: PretrainModel) -> Image:
        """The image of the first batch, RGB uint8 (H, W, 3)."""
        _, example, outputs = next(self.predictions(model))
        return tasks_image(model.active(), example, outputs)


def tasks_image(
    tasks: Sequence[PretextTask[Any]], example: Example, outputs: dict[str, dict[str, Tensor]]
) -> Image:
    """What the tasks do: a row per sample, at most `ROWS`, RGB uint8 (H, W, 3)."""
    rows = min(ROWS, len(example.crops.patches))
    columns = [Column("patch", [photo(patch) for patch in example.crops.patches[:rows]])]
    for task in tasks:
        columns += task.panel(example.crops, example.targets[task.name], outputs[task.name], rows)
    return joined(columns)


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
