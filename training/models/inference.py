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
    model: Classifier,
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


def face_logits(model: Classifier, inputs: Tensor, mirrored: bool) -> Tensor:
    """Logits, float32 (B, A), of normalised faces, float (B, 3, S, S).

    Args:
        model: in evaluation mode.
        inputs: for the network.
        mirrored: take the mean of the logits of a face and of its mirror image.
    """
    logits = model(inputs).float()
    return (logits + model(inputs.flip(-1)).float()) / 2 if mirrored else logits
