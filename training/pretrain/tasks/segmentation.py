"""PST, the patch segmentation task: predict the parsing mask of a random patch.

Pixel-level semantics. The label is the patch of the stored mask; the head is
CCNet's recurrent criss-cross attention on the backbone's last stage.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.classes import NUM_CLASSES
from training.models.blocks import CrissCrossAttention, PReLU, convolution


class SegmentationHead(nn.Module):
    """Recurrent criss-cross attention (Huang et al. 2019): float (B, C, h, w) to logits (B, K, r*h, r*w).

    C channels are reduced to C/4, pass the same attention `recurrences` times, and are
    joined with the input to C/2.

    Args:
        channels: C.
        classes: K.
        upscale: r. The published head has 1. A larger one gives r x r logits per cell by
            sub-pixel convolution (Shi et al. 2016), without which the 2 to 6 cells of a small
            input's last stage cannot draw a face.
        recurrences, dropout: as published.
    """

    def __init__(
        self,
        channels: int,
        classes: int = NUM_CLASSES,
        upscale: int = 1,
        recurrences: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        inner, outer = channels // 4, channels // 2
        self.recurrences = recurrences
        self.reduce = nn.Sequential(convolution(channels, inner), nn.BatchNorm2d(inner), PReLU())
        self.attend = CrissCrossAttention(inner)
        self.refine = nn.Sequential(convolution(inner, inner), nn.BatchNorm2d(inner), PReLU())
        self.classify = nn.Sequential(
            convolution(channels + inner, outer),
            nn.BatchNorm2d(outer),
            PReLU(),
            nn.Dropout2d(dropout),
            nn.Conv2d(outer, classes * upscale**2, 1),
            nn.PixelShuffle(upscale),
        )

    def forward(self, backbone: Tensor) -> Tensor:
        """Return class logits at `upscale` times the backbone's resolution."""
        attended = self.reduce(backbone)
        for _ in range(self.recurrences):
            attended = self.attend(attended)
        return self.classify(torch.cat((backbone, self.refine(attended)), dim=1))


def segmentation_loss(logits: Tensor, masks: Tensor, label_smoothing: float) -> Tensor:
    """Cross-entropy of upsampled logits.

    Args:
        logits: float (B, K, h, w); upsampled bilinearly to the masks.
        masks: int64 (B, S, S), classes 0..K-1.
        label_smoothing: share of the target spread over all classes.

    Returns:
        Scalar, mean over pixels.
    """
    by_pixel = upsample(logits, masks.shape[-1]).permute(0, 2, 3, 1).flatten(0, 2)
    return F.cross_entropy(by_pixel, masks.flatten(), label_smoothing=label_smoothing)


def upsample(logits: Tensor, size: int) -> Tensor:
    """Bilinear upsampling of logits (B, K, h, w) to float32 (B, K, size, size)."""
    return F.interpolate(logits.float(), (size, size), mode="bilinear", align_corners=False)
