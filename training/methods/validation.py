"""The labelled faces of val, on which the weights of a network are judged while it trains."""

import torch

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
