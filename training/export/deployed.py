"""The classifier as it is used: aligned faces in, probabilities out, nothing left to get wrong in between."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.data.transforms import MEAN, STD
from training.models.classifier import Classifier


class Deployed(nn.Module):
    """A classifier with its preprocessing inside.

    The resize is a product with one matrix per axis, the weights of PyTorch's antialiased bilinear
    resize, because runtimes differ in how they resize. On the CPU training rounds resized faces to
    whole levels, which this does not; that moved probabilities by 0.0004 on average and 0.015 at most
    (two classifiers, 200 faces of CelebA each).

    Args:
        classifier: on any device.
        size: side of the aligned faces in pixels.
        input_size: side that the network sees.
    """

    def __init__(self, classifier: Classifier, size: int, input_size: int) -> None:
        super().__init__()
        self.classifier = classifier
        resize = F.interpolate(
            torch.eye(size)[None, None],
            (input_size, size),
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

    def forward(self, faces: Tensor) -> Tensor:
        """Probabilities, float32 (B, A), of aligned RGB faces, uint8 or float 0..255 (B, S, S, 3)."""
        resize, mean, std = (self.get_buffer(name) for name in ("resize", "mean", "std"))
        pictures = resize @ faces.permute(0, 3, 1, 2).float() @ resize.T
        pictures = (pictures / 255 - mean[:, None, None]) / std[:, None, None]
        return self.classifier(pictures).float().sigmoid()
