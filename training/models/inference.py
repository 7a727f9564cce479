"""The inference loop: from batches of faces to logits."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.section import Precision
from training.data.transforms import to_input
from training.engine.device import autocast
from training.models.classifier import Classifier


@torch.inference_mode()
def predict_logits(
    model: Classifier, batches: Iterable[Tensor], device: torch.device, precision: Precision = "float32"
) -> NDArray[np.float32]:
    """Logits of all faces, float32 (N, A).

    Args:
        model: on `device`; it is evaluated in evaluation mode and left in the mode that it was in.
        batches: faces of any size, uint8 or float 0..255, (B, 3, H, W) each; at least one batch.
        device: where the model is.
        precision: of the forward pass.
    """
    training = model.training
    model.eval()
    logits = []
    for images in batches:
        inputs = to_input(images.to(device), model.config.input_size)
        with autocast(device, precision):
            logits.append(model(inputs).float().cpu().numpy())
    model.train(training)
    return np.concatenate(logits)
