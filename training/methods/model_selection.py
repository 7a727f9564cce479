"""Model selection: which step's weights are kept, judged on samples of the val split alone."""

from collections.abc import Callable

import torch
from torch import Tensor

from common.config import Finetune
from common.layout import Layout
from common.pipeline_config import Stream
from common.sampling import evenly_spaced
from training.data.loader import load
from training.data.sampler import sequential_batches
from training.data.samples import Samples, read_samples
from training.data.transforms import resize_images
from training.engine.average_precision import mean_average_precision
from training.models.classifier import Classifier
from training.models.inference import predict_logits

BATCH_SIZE = 64


class ValidationSet:
    """At most ``validate_samples`` labelled samples of the val split, evenly spaced, at the network's size.

    They are the same for every run, so the scores of different runs can be compared.

    Attributes:
        images: uint8 (B, 3, S, S), in batches.
        labels: int8 (N, A), 0 or 1, -1 where unknown.

    Args:
        settings: how many samples, and the precision of the forward pass.
        input_size: side of the network's input in pixels.
        stream: the cache of remote shards.
        layout: the shards.
    """

    def __init__(self, settings: Finetune, input_size: int, stream: Stream, layout: Layout) -> None:
        samples = validation_samples(layout, settings.validate_samples)
        self.labels, self._precision = samples.attributes, settings.precision
        batches = load(
            samples, sequential_batches(samples, BATCH_SIZE), {"jpg"}, settings.loader_workers, stream
        )
        self.images = [resize_images(batch.images, input_size).to(torch.uint8) for batch in batches]

    def score(self, model: Classifier, device: torch.device) -> float | None:
        """Mean average precision of `model`, 0 to 1; None if no attribute occurs both present and absent."""
        if not self.images:
            return None
        logits = predict_logits(model, self.images, device, self._precision)
        return mean_average_precision(self.labels, logits)


def validation_samples(layout: Layout, count: int) -> Samples:
    """At most `count` labelled samples of the val split, evenly spaced."""
    samples = read_samples(layout, ("val",)).labelled()
    return samples.take(evenly_spaced(count, len(samples)))


class BestWeights:
    """The weights with the highest score so far: the first of equal ones, the last if there are no scores.

    Attributes:
        step: optimisation steps after which they were taken.
        score: their score.
        weights: the state dict, a copy.
    """

    def __init__(self) -> None:
        self.step = 0
        self.score: float | None = None
        self.weights: dict[str, Tensor] = {}

    def offer(self, step: int, score: float | None, state_dict: Callable[[], dict[str, Tensor]]) -> None:
        """Keep a copy of what `state_dict` returns if `score` is higher than all before."""
        if score is None or self.score is None or score > self.score:
            self.step, self.score = step, score
            self.weights = {name: value.detach().clone() for name, value in state_dict().items()}
