"""PST, the patch segmentation task: predict the parsing mask of a random patch.

Pixel-level semantics. The target is the patch of the stored mask; the head is
CCNet's recurrent criss-cross attention on the backbone's last stage.
"""

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.classes import NUM_CLASSES
from common.pipeline_config import Positive
from training.models import Features
from training.models.blocks import CrissCrossAttention, activation, convolution
from training.pretrain.tasks.base import PretextTask, TaskConfig, TaskContext, TaskMetric, Tensors
from training.pretrain.tasks.patches import Crops

LABEL_SMOOTHING: Final = 0.1  # Share of the target that is spread over all classes
RECURRENCES, DROPOUT = 2, 0.1  # Of the head, as published


class SegmentationConfig(TaskConfig):
    """Settings of the segmentation."""

    upscale: Positive
    """logits per side of a cell of the last stage; 1 as published"""


class SegmentationTask(PretextTask[SegmentationConfig]):
    """Cross-entropy of the patch's classes, pixel by pixel.

    Targets: ``masks``, int64 (B, S, S). Outputs: ``logits``, float (B, K, h, w).
    """

    name = "segmentation"
    abbreviation = "PST"
    title = "Patch segmentation"
    config_class = SegmentationConfig
    features = frozenset({"backbone"})
    members = frozenset({"mask.png"})

    def __init__(self, config: SegmentationConfig, context: TaskContext) -> None:
        super().__init__(config, context)
        self.head = SegmentationHead(context.channels, len(context.classes.names), config.upscale)

    def targets(self, crops: Crops, generator: torch.Generator) -> dict[str, Tensor]:
        """The masks of the patches, resized to the nearest pixel centre; nothing is drawn."""
        size = (self.context.input_size, self.context.input_size)
        resized = F.interpolate(crops.patch_masks[:, None].float(), size, mode="nearest-exact")
        return {"masks": resized[:, 0].long()}

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Logits of the backbone's features."""
        return {"logits": self.head(features.backbone)}

    def losses(self, outputs: Tensors, targets: Tensors) -> dict[str, Tensor]:
        """The cross-entropy."""
        return {"loss": segmentation_loss(outputs["logits"], targets["masks"])}

    def metrics(self) -> tuple[TaskMetric, ...]:
        """Pixel accuracy, and mean intersection over union."""
        return (
            TaskMetric("pixel_accuracy", "pixel accuracy", pixel_accuracy),
            TaskMetric("mean_iou", "mean IoU", mean_iou, in_training=False),
        )

    def observe(self, outputs: Tensors, targets: Tensors) -> dict[str, Tensor]:
        """The confusion matrix of the batch, int64 (1, K, K): pixels by true and by predicted class."""
        count = len(self.context.classes.names)
        predicted = upsample(outputs["logits"], targets["masks"].shape[-1]).argmax(1)
        pairs = (targets["masks"] * count + predicted).flatten()
        return {"confusion": torch.bincount(pairs, minlength=count * count).view(1, count, count).cpu()}


class SegmentationHead(nn.Module):
    """Recurrent criss-cross attention (Huang et al. 2019): float (B, C, h, w) to logits (B, K, r*h, r*w).

    C channels are reduced to C/4, pass the same attention `RECURRENCES` times, and are joined with the input
    to C/2. The published head has an `upscale`, r, of 1. A larger one gives r x r logits per cell by
    sub-pixel convolution (Shi et al. 2016), without which the last 2 to 6 cells cannot draw a face.
    """

    def __init__(self, channels: int, classes: int = NUM_CLASSES, upscale: int = 1) -> None:
        super().__init__()
        inner, outer = channels // 4, channels // 2
        self.reduce = nn.Sequential(convolution(channels, inner), *activation(inner))
        self.attend = CrissCrossAttention(inner)
        self.refine = nn.Sequential(convolution(inner, inner), *activation(inner))
        self.classify = nn.Sequential(
            convolution(channels + inner, outer),
            *activation(outer),
            nn.Dropout2d(DROPOUT),
            nn.Conv2d(outer, classes * upscale**2, 1),
            nn.PixelShuffle(upscale),
        )

    def forward(self, backbone: Tensor) -> Tensor:
        """Return class logits at `upscale` times the backbone's resolution."""
        attended = self.reduce(backbone)
        for _ in range(RECURRENCES):
            attended = self.attend(attended)
        return self.classify(torch.cat((backbone, self.refine(attended)), dim=1))


def segmentation_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Smoothed cross-entropy, mean over pixels, of logits, see `upsample`, and masks, int64 (B, S, S)."""
    by_pixel = upsample(logits, masks.shape[-1]).permute(0, 2, 3, 1).flatten(0, 2)
    return F.cross_entropy(by_pixel, masks.flatten(), label_smoothing=LABEL_SMOOTHING)


def upsample(logits: Tensor, size: int) -> Tensor:
    """Bilinear upsampling of logits (B, K, h, w) to float32 (B, K, size, size)."""
    return F.interpolate(logits.float(), (size, size), mode="bilinear", align_corners=False)


def pixel_accuracy(observed: Tensors) -> float:
    """Share of pixels whose class is predicted, from confusion matrices, int64 (N, K, K)."""
    confusion = observed["confusion"].sum(0)
    return (confusion.diagonal().sum() / confusion.sum()).item()


def mean_iou(observed: Tensors) -> float:
    """Mean intersection over union of the classes that occur, from confusion matrices, int64 (N, K, K)."""
    confusion = observed["confusion"].sum(0).double()
    intersection, true = confusion.diagonal(), confusion.sum(1)
    union = true + confusion.sum(0) - intersection
    present = true > 0
    return (intersection[present] / union[present]).mean().item()
