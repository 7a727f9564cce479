"""Probabilities of samples by any classifier."""

import numpy as np
import torch
from numpy.typing import NDArray

from common.pipeline_config import Stream
from common.progress import progress
from training.data.loader import load
from training.data.sampler import sequential_batches
from training.data.samples import Samples
from training.models.classifier import Classifier
from training.models.stored_features import require_members


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
