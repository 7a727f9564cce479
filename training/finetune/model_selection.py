"""The choice of the step whose weights are kept, on faces of the val split alone."""

from collections.abc import Callable

import torch
from torch import Tensor

from common.config import Config
from common.layout import Layout
from common.sampling import evenly_spaced
from training.data.loader import load
from training.data.sampler import sequential_batches
from training.data.samples import read_samples
from training.data.transforms import resize_images
from training.engine.average_precision import mean_average_precision
from training.models.classifier import Classifier
from training.models.inference import predict_logits


class ValidationSamples:
    """Faces of the val split, at most ``validate_samples`` and evenly spread, kept at the network's size.

    The same ones for every run, so a run's score can be compared with another's.
    """

    def __init__(self, config: Config, layout: Layout) -> None:
        faces = read_samples(layout, ("val",)).labelled()
        count = min(len(faces), config.finetune.validate_samples)
        faces = faces.take(evenly_spaced(count, len(faces)))
        self._labels, self._batch_size = faces.attributes, 64
        self._precision = config.finetune.precision
        planned = sequential_batches(faces, self._batch_size)
        self._pictures = [
            resize_images(batch.images, config.network.input_size).to(torch.uint8)
            for batch in load(faces, planned, {"jpg"}, config.finetune.loader_workers, config.stream)
        ]

    def score(self, model: Classifier, place: torch.device) -> float | None:
        """Mean average precision of `model`; None if val cannot tell. The training mode is kept."""
        if not self._pictures:
            return None
        logits = predict_logits(model, self._pictures, place, self._precision)
        return mean_average_precision(self._labels, logits)


class Best:
    """The weights with the best score so far; of equal ones the first, and without scores the last."""

    def __init__(self) -> None:
        self.step = 0
        self.score: float | None = None
        self.state: dict[str, Tensor] = {}

    def offer(self, step: int, score: float | None, state: Callable[[], dict[str, Tensor]]) -> None:
        """Keep a copy of what `state` gives if `score` is better than all before."""
        if score is None or self.score is None or score > self.score:
            self.step, self.score = step, score
            self.state = {name: value.detach().clone() for name, value in state().items()}
