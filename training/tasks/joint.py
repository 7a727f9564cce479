"""All tasks of stage 1 together: the model with every head, the labels of a batch, the losses."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from contract.classes import FLIP_CLASSES
from contract.config import Config
from training.networks import Features, build
from training.preprocess import to_input
from training.stream import Batch
from training.tasks.agreement import Discriminator, Fusion, fooling_loss
from training.tasks.classification import (
    BRANCH_CLASSES,
    ClassificationHead,
    classification_loss,
    count_classes,
    dominant_parts,
)
from training.tasks.patches import crop, random_corners, resize_masks
from training.tasks.rotation import RotationHead, TurnedTiles, rotation_losses, turn_tiles
from training.tasks.segmentation import SegmentationHead, segmentation_loss, upsample


@dataclass(frozen=True)
class Labels:
    """What stage 1 makes of a batch, all without annotations.

    Attributes:
        patches: float32 (B, 3, S, S), normalised network input.
        masks: int64 (B, S, S), the patches' parsing masks.
        parts: float32 (B, 19), 1 for the classes that dominate the patch.
        turned: tiles of the rotation task.
    """

    patches: Tensor
    masks: Tensor
    parts: Tensor
    turned: TurnedTiles


@dataclass(frozen=True)
class Outputs:
    """Logits per task; `fused` and `whole` are the vectors of the agreement, (B, C)."""

    segmentation: Tensor
    classification: dict[str, Tensor]
    tile: Tensor
    angle: Tensor
    fused: Tensor
    whole: Tensor


class PretrainModel(nn.Module):
    """The network with the heads of all tasks."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.network = build(config.network)
        channels = self.network.channels
        self.segmentation = SegmentationHead(channels)
        self.classification = ClassificationHead(channels)
        self.rotation = RotationHead(channels, config.network.tiles)
        self.fusion = Fusion(channels)

    def forward(self, patches: Tensor, tiles: Tensor) -> Outputs:
        """Answers for float (B, 3, S, S) patches and float (B, 3*m*m, S, S) tiles."""
        seen: Features = self.network(patches)
        turned: Features = self.network(self.rotation.entrance(tiles), branches=False)
        tile, angle = self.rotation(turned.trunk)
        return Outputs(
            segmentation=self.segmentation(seen.trunk),
            classification=self.classification(seen.branches),
            tile=tile,
            angle=angle,
            fused=self.fusion(seen.branches),
            whole=seen.branches["whole"].mean(dim=(2, 3)),
        )


def make_labels(batch: Batch, config: Config, generator: torch.Generator) -> Labels:
    """Make a batch's inputs and labels on the device that it lies on."""
    settings, size = config.pretrain, config.network.input_size
    images, masks = flip(batch.images, batch.masks, settings.flip, generator)
    least, greatest = settings.patch_fraction
    share = least + (greatest - least) * torch.rand((), generator=generator).item()
    side = max(1, round(images.shape[-1] * share))
    corner = random_corners(len(images), images.shape[-1] - side, generator, images.device)[:, None]
    top, left = corner[..., 0], corner[..., 1]
    patch_masks = crop(masks[:, None], top, left, side)[:, 0, 0]
    return Labels(
        patches=to_input(crop(images, top, left, side)[:, 0], size),
        masks=resize_masks(patch_masks, size),
        parts=dominant_parts(count_classes(patch_masks), settings.top_parts),
        turned=turn_tiles(images, masks, config.network.tiles, size, settings, generator),
    )


def flip(
    images: Tensor, masks: Tensor, probability: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mirror some of the samples; left and right classes of their masks change places."""
    drawn = torch.rand(len(images), generator=generator) < probability
    mirrored = torch.nonzero(drawn)[:, 0].to(images.device)
    classes = torch.from_numpy(FLIP_CLASSES.copy()).to(masks.device)
    flipped = classes[masks[mirrored].flip(-1).int()]
    return (
        images.index_copy(0, mirrored, images[mirrored].flip(-1)),
        masks.index_copy(0, mirrored, flipped),
    )


def losses(
    outputs: Outputs, labels: Labels, config: Config, discriminator: Discriminator
) -> dict[str, Tensor]:
    """The loss of every task whose weight is not 0, unweighted."""
    weights, smoothing = config.pretrain.tasks, config.pretrain.label_smoothing
    terms = {}
    if weights.segmentation:
        terms["segmentation"] = segmentation_loss(outputs.segmentation, labels.masks, smoothing)
    if weights.classification:
        terms["classification"] = classification_loss(outputs.classification, labels.parts)
    tile, angle = rotation_losses(outputs.tile, outputs.angle, labels.turned)
    if weights.rotation:
        terms["rotation"] = tile
    if weights.angle:
        terms["angle"] = angle
    if weights.agreement:
        terms["agreement"] = fooling_loss(discriminator, outputs.fused)
    return terms


@torch.no_grad()
def accuracies(outputs: Outputs, labels: Labels) -> dict[str, float]:
    """Share of right answers per task on a batch."""
    predicted = upsample(outputs.segmentation, labels.masks.shape[-1]).argmax(1)
    parts = [
        ((logits > 0) == labels.parts[:, list(BRANCH_CLASSES[name])].bool()).float().mean()
        for name, logits in outputs.classification.items()
    ]
    return {
        "segmentation_accuracy": (predicted == labels.masks).float().mean().item(),
        "classification_accuracy": torch.stack(parts).mean().item(),
        "rotation_accuracy": (outputs.tile.argmax(1) == labels.turned.tile).float().mean().item(),
        "angle_accuracy": (outputs.angle.argmax(1) == labels.turned.angle).float().mean().item(),
    }
