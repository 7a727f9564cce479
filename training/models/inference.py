"""The inference loop: from batches of faces to logits, and from samples to probabilities."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.pipeline_config import Stream
from common.progress import progress
from common.section import Precision
from training.data.loader import load
from training.data.sampler import sequential_batches
from training.data.samples import Samples
from training.data.transforms import to_input
from training.engine.device import autocast
from training.models.attribute_network import AttributeNetwork, face_logits
from training.models.classifier import Classifier
from training.models.stored_features import require_members


@torch.inference_mode()
def predict_logits(
    model: AttributeNetwork,
    batches: Iterable[Tensor],
    device: torch.device,
    precision: Precision = "float32",
    mirrored: bool = False,
) -> NDArray[np.float32]:
    """Logits of all faces, float32 (N, A).

    Args:
        model: on `device`; it is evaluated in evaluation mode and left in the mode that it was in.
        batches: faces of any size, uint8 or float 0..255, (B, 3, H, W) each; at least one batch.
        device: where the model is.
        precision: of the forward pass.
        mirrored: see `face_logits`.
    """
    training = model.training
    model.eval()
    logits = []
    for images in batches:
        inputs = to_input(images.to(device), model.config.input_size)
        with autocast(device, precision):
            logits.append(face_logits(model, inputs, mirrored).cpu().numpy())
    model.train(training)
    return np.concatenate(logits)


def sample_probabilities(
    classifier: Classifier, samples: Samples, stream: Stream, batch_size: int, title: str
) -> NDArray[np.float64]:
    """Probabilities, float64 (N, A), of all samples in their order.

    Args:
        classifier: of any kind.
        samples: at least one, in shards that hold what the classifier reads.
        stream: the cache of remote shards.
        batch_size: samples per batch.
        title: of the progress bar.

    Raises:
        UserError: the shards do not hold what the classifier reads.
    """
    require_members(samples, classifier.members)
    bar = progress(title, len(samples), "faces")
    logits = []
    for batch in load(samples, sequential_batches(samples, batch_size), classifier.members, 1, stream):
        logits.append(torch.from_numpy(classifier.logits(batch)))
        bar.update(len(batch.indices))
    bar.close()
    return torch.cat(logits).double().sigmoid().numpy()
