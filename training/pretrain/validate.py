"""How well stage 1 solves its tasks on the val split, with random draws that never change."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.config import Pretrain
from common.layout import Layout
from common.pipeline_config import Stream
from common.sampling import evenly_spaced
from training.data.broken import BrokenSamples
from training.data.samples import Samples, read_samples
from training.engine.batch_norm import batch_statistics
from training.engine.device import autocast
from training.engine.logger import Log
from training.pretrain.model import Example, PretrainModel, load_samples
from training.pretrain.visualize import tasks_image

MIN_SAMPLES = 2
"""Batch normalisation needs two."""

VALIDATION_STEP = -1
"""The number of the step that validation draws as; training's are 0 and more."""


def read_validation_samples(layout: Layout, most: int) -> Samples | None:
    """At most `most` samples of the val split, evenly spread; None if there are too few."""
    samples = read_samples(layout, ("val",))
    if min(len(samples), most) < MIN_SAMPLES:
        return None
    return samples.take(evenly_spaced(most, len(samples)))


class Validator:
    """Measures and draws a model on samples that it does not learn from.

    Args:
        samples: of the val split.
        settings: of stage 1: batch size, precision, loader.
        stream: the cache of remote shards.
        device: of the model.
        broken: see `training.data.loader.load`.
    """

    def __init__(
        self,
        samples: Samples,
        settings: Pretrain,
        stream: Stream,
        device: torch.device,
        broken: BrokenSamples,
    ) -> None:
        self.samples, self._settings, self._stream, self._device = samples, settings, stream, device
        self._broken = broken

    def predictions(
        self, model: PretrainModel
    ) -> Iterator[tuple[NDArray[np.int64], Example, dict[str, dict[str, Tensor]]]]:
        """Indices, examples and outputs, batch by batch; the same draws at every call.

        Batches differ by one sample at most in size and hold at least ``batch_size`` samples if there are
        so many, so that none is too small for its statistics.
        """
        count = max(1, len(self.samples) // self._settings.batch_size)
        indices = np.array_split(np.arange(len(self.samples)), count)
        planned = (batch.tolist() for batch in indices)
        batches = load_samples(self.samples, planned, model, self._settings, self._stream, self._broken)
        for number, batch in enumerate(batches):
            example = model.prepare(batch.to(self._device), VALIDATION_STEP, number)
            with batch_statistics(model), autocast(self._device, self._settings.precision):
                outputs = model(example.crops.patches, example.targets)
            yield indices[number], example, outputs

    def scores(self, model: PretrainModel) -> dict[str, float]:
        """The metrics of all tasks by ``<task>/<metric>``."""
        return model.scores(
            model.observe(outputs, example.targets) for _, example, outputs in self.predictions(model)
        )

    def image(self, model: PretrainModel) -> NDArray[np.uint8]:
        """The image of the first batch, RGB uint8 (H, W, 3)."""
        _, example, outputs = next(self.predictions(model))
        return tasks_image(model.active(), example, outputs)

    def due(self, done: int) -> bool:
        """Whether `log_due` logs anything after `done` steps."""
        settings = self._settings
        return any(n and done % n == 0 for n in (settings.validate_every, settings.picture_every))

    def log_due(self, log: Log, model: PretrainModel, done: int) -> None:
        """Log the scores and the image after `done` steps, each if it is due.

        All processes of a run call this for the same samples: synchronised batch norm waits for all of them.
        """
        settings = self._settings
        if settings.validate_every and done % settings.validate_every == 0:
            log.values(done, "val", self.scores(model))
        if settings.picture_every and done % settings.picture_every == 0:
            log.image(done, "tasks", self.image(model))
