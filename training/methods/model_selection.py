"""Model selection: which step's weights are kept, judged on samples of the val split alone."""

from collections.abc import Callable

import torch
from torch import Tensor

from common.config import Config
from training.data.loader import load
from training.data.sampler import sequential_batches
from training.data.samples import Samples
from training.data.transforms import resize_images
from training.engine.average_precision import mean_average_precision
from training.models.attribute_network import AttributeNetwork
from training.models.inference import predict_logits

BATCH_SIZE = 64


class ValidationSet:
    """Labelled samples of the val split at the network's size.

    Attributes:
        images: uint8 (B, 3, S, S), in batches.
        labels: int8 (N, A), 0 or 1, -1 where unknown.

    Args:
        samples: the samples.
        config: the network's input, the loader, and the precision of the forward pass.
    """

    def __init__(self, samples: Samples, config: Config) -> None:
        self.labels, self._precision = samples.attributes, config.trainer.precision
        planned, workers = sequential_batches(samples, BATCH_SIZE), config.trainer.loader_workers
        batches = load(samples, planned, {"jpg"}, workers, config.stream)
        size = config.network.input_size
        self.images = [resize_images(batch.images, size).to(torch.uint8) for batch in batches]

    def score(self, model: AttributeNetwork, device: torch.device) -> float | None:
        """Mean average precision of `model`, 0 to 1; None if no attribute occurs both present and absent."""
        if not self.images:
            return None
        logits = predict_logits(model, self.images, device, self._precision)
        return mean_average_precision(self.labels, logits)


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
