"""Probabilities of faces in shards, by any file that fine-tuning writes: a classifier or a probe."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.config import Evaluate
from common.pipeline_config import Stream
from common.progress import progress
from training.data.loader import load
from training.data.sampler import sequential_batches
from training.data.samples import Samples
from training.engine.device import default_device
from training.models.classifier import Classifier
from training.models.classifier_file import read_classifier
from training.models.inference import predict_logits
from training.models.probe import Probe
from training.models.probe_file import is_probe, read_probe


class ShardPredictor:
    """A classifier or a probe.

    Args:
        file: ``classifier.pt``.
        settings: batch size and precision of a network, and whether it sees mirror images too.
        stream: the cache of remote shards.

    Raises:
        UserError: the file is missing, or neither of both.
    """

    def __init__(self, file: Path, settings: Evaluate, stream: Stream) -> None:
        self._model: Classifier | Probe = read_probe(file) if is_probe(file) else read_classifier(file)
        self._settings, self._stream = settings, stream

    @property
    def network(self) -> bool:
        """Whether it is a classifier, which computes in the settings' precision."""
        return isinstance(self._model, Classifier)

    @property
    def attributes(self) -> tuple[str, ...]:
        """The names of the columns of probabilities."""
        return tuple(self._model.attributes)

    def __call__(self, faces: Samples, title: str) -> NDArray[np.float64]:
        """Probabilities, float64 (N, A), of all faces in the manifest's order.

        Args:
            faces: at least one.
            title: of the progress bar.

        Raises:
            UserError: the shards do not hold the features that a probe reads.
        """
        if isinstance(self._model, Probe):
            return self._model.probabilities(faces, self._stream)
        device = default_device()
        self._model.to(device).to(memory_format=torch.channels_last)
        settings = self._settings
        images = self._images(faces, title)
        logits = predict_logits(self._model, images, device, settings.precision, settings.mirrored)
        return torch.from_numpy(logits).sigmoid().double().numpy()

    def _images(self, faces: Samples, title: str) -> Iterator[Tensor]:
        bar = progress(title, len(faces), "faces")
        batches = sequential_batches(faces, self._settings.batch_size)
        for batch in load(faces, batches, {"jpg"}, 1, self._stream):
            yield batch.images
            bar.update(len(batch.indices))
        bar.close()
