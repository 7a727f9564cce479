"""PFD, feature distillation: predict the parser's features of a random patch.

After knowledge distillation from intermediate features (Romero et al. 2015). The teacher ran once, when the
shards were made with ``parse.features=grid``, so training costs no forward pass of it.
"""

from typing import Final, Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.section import Positive
from common.shards import FEATURE_CHANNELS
from training.models import BRANCHES, Features
from training.pretrain.tasks.base import (
    PretextTask,
    TaskConfig,
    TaskContext,
    TaskMetric,
    Tensors,
    share_correct,
)
from training.pretrain.tasks.panel import Column, Image, scaled
from training.pretrain.tasks.patches import Crops

SOURCES: Final = ("backbone", *BRANCHES)
"""The features that each regress the target by a head of their own."""


class DistillationConfig(TaskConfig):
    """Settings of the distillation.

    loss: ``cosine``, one minus the cosine similarity, or ``smooth_l1``. cells: target cells per side of the
    patch.
    """

    loss: Literal["cosine", "smooth_l1"]
    cells: Positive


class DistillationTask(PretextTask[DistillationConfig]):
    """Regression of the standardised features of the patch's cells, k x k.

    Targets: ``features``, float32 (B, 64, k, k). Outputs: the same shape by name of `SOURCES`.
    """

    name = "distillation"
    abbreviation = "PFD"
    title = "Feature distillation"
    config_class = DistillationConfig
    features = frozenset(SOURCES)

    def __init__(self, config: DistillationConfig, context: TaskContext) -> None:
        super().__init__(config, context)
        self.heads = nn.ModuleDict(
            {name: nn.Conv2d(context.channels, FEATURE_CHANNELS, 1) for name in SOURCES}
        )

    def members(self) -> frozenset[str]:
        """The stored features."""
        return frozenset({"features.npy"})

    def targets(self, crops: Crops, generator: torch.Generator) -> dict[str, Tensor]:
        """The features of the patches; nothing is drawn."""
        size = crops.images.shape[-1]
        cells = crop_features(
            crops.features, crops.top, crops.left, crops.side / size, size, self.config.cells
        )
        return {"features": standardise(cells)}

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Predicted features of the backbone and of each branch."""
        maps = {"backbone": features.backbone, **features.branches}
        side = self.config.cells
        return {
            name: F.interpolate(head(maps[name]).float(), (side, side), mode="bilinear", align_corners=False)
            for name, head in self.heads.items()
        }

    def losses(self, outputs: Tensors, targets: Tensors) -> dict[str, Tensor]:
        """The mean over the backbone and the branches."""
        target = targets["features"]
        if self.config.loss == "cosine":
            terms = [
                1 - F.cosine_similarity(predicted, target, dim=1).mean() for predicted in outputs.values()
            ]
        else:
            terms = [F.smooth_l1_loss(predicted, target) for predicted in outputs.values()]
        return {"loss": torch.stack(terms).mean()}

    def metrics(self) -> tuple[TaskMetric, ...]:
        """The cosine similarity of prediction and target, over cells, backbone and branches."""
        return (
            TaskMetric("cosine_similarity", "cosine similarity", share_correct("similarity"), chance=0.0),
        )

    def observe(self, outputs: Tensors, targets: Tensors) -> dict[str, Tensor]:
        """The mean similarity of each sample, float (B,)."""
        each = [F.cosine_similarity(o, targets["features"], dim=1).mean((1, 2)) for o in outputs.values()]
        return {"similarity": torch.stack(each).mean(0).cpu()}

    def panel(self, crops: Crops, targets: Tensors, outputs: Tensors, rows: int) -> list[Column]:
        """Three channels of the target and of the backbone's prediction as red, green and blue."""
        return [
            Column(title, [_as_colours(features) for features in values[:rows]])
            for title, values in (
                ("target features", targets["features"]),
                ("predicted features", standardise(outputs["backbone"])),
            )
        ]


def crop_features(features: Tensor, top: Tensor, left: Tensor, share: float, size: int, cells: int) -> Tensor:
    """Features of square patches, interpolated bilinearly between the cells of the whole faces.

    Args:
        features: float (B, G, G, C), cells of whole faces, rows first.
        top, left: int64 (B,), upper left corners in pixels.
        share: side of the patches as a share of the faces'.
        size: side of the faces in pixels.
        cells: k, samples per side of a patch, at the centres of k x k equal cells.

    Returns:
        float32 (B, C, k, k).
    """
    centres = torch.stack((left, top), dim=1) * (2 / size) + share - 1  # from -1 to 1
    scale = (torch.eye(2, device=features.device) * share).expand(len(features), 2, 2)
    maps = features.float().permute(0, 3, 1, 2)
    shape = [len(maps), maps.shape[1], cells, cells]
    grid = F.affine_grid(torch.cat((scale, centres[:, :, None]), dim=2), shape, align_corners=False)
    return F.grid_sample(maps, grid, padding_mode="border", align_corners=False)


def standardise(features: Tensor) -> Tensor:
    """Features (B, C, k, k) with zero mean and unit variance per channel, over samples and cells."""
    return F.batch_norm(features.float(), None, None, training=True)


def _as_colours(features: Tensor) -> Image:
    pixels = (127.5 + 64 * features[:3].float().cpu()).clamp(0, 255).permute(1, 2, 0)
    return scaled(pixels.numpy().astype(np.uint8), cv2.INTER_NEAREST)
