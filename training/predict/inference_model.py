"""The classifier as it is deployed: aligned faces in, probabilities out, with the preprocessing inside."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.data.transforms import MEAN, STD
from training.models.classifier import Classifier


class InferenceModel(nn.Module):
    """A classifier with its preprocessing.

    The resize is a product with one matrix per axis, the weights of PyTorch's antialiased bilinear
    resize, because runtimes differ in how they resize. On the CPU training rounds resized images to
    whole levels and this model does not; that moved probabilities by 0.0004 on average and by 0.015 at
    most (two classifiers, 200 faces of CelebA each).

    Args:
        classifier: on any device.
        size: side of the aligned faces in pixels.
    """

    def __init__(self, classifier: Classifier, size: int) -> None:
        super().__init__()
        self.classifier = classifier
        resize = F.interpolate(
            torch.eye(size)[None, None],
            (classifier.config.input_size, size),
            mode="bilinear",
            antialias=True,
            align_corners=False,
        )
        for name, value in (
            ("resize", resize[0, 0]),
            ("mean", torch.tensor(MEAN)),
            ("std", torch.tensor(STD)),
        ):
            self.register_buffer(name, value, persistent=False)

    def inputs(self, faces: Tensor) -> Tensor:
        """Float32 (B, 3, S', S') for the classifier, from RGB faces, uint8 or float 0..255 (B, S, S, 3)."""
        resize, mean, std = (self.get_buffer(name) for name in ("resize", "mean", "std"))
        images = resize @ faces.permute(0, 3, 1, 2).float() @ resize.T
        return (images / 255 - mean[:, None, None]) / std[:, None, None]

    def forward(self, faces: Tensor) -> Tensor:
        """Probabilities, float32 (B, A), of aligned RGB faces, uint8 or float 0..255 (B, S, S, 3)."""
        return self.classifier(self.inputs(faces)).float().sigmoid()
