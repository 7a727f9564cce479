"""All tasks of stage 1 together: the model with every head, the labels of a batch, the losses.

A task of weight 0 has no head, no labels and no loss, and what only it would read is neither
computed nor trained. Tensors of such a task are empty, of shape (0,).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.classes import FLIP_CLASSES
from common.config import Config, Pretrain
from training.data.loader import Batch, load
from training.data.samples import Samples
from training.data.transforms import to_input
from training.models import BRANCHES, LOCAL_BRANCHES, build
from training.pretrain.tasks.adversarial import Discriminator, Fusion, fooling_loss
from training.pretrain.tasks.class_sets import CLASS_SETS
from training.pretrain.tasks.classification import (
    ClassificationHead,
    classification_loss,
    count_classes,
    dominant_classes,
    flip_cells,
    merge_cells,
    sum_cells,
)
from training.pretrain.tasks.patches import crop, random_patches, resize_masks
from training.pretrain.tasks.rotation import RotationHead, TurnedTiles, rotation_loss, turn_tiles
from training.pretrain.tasks.segmentation import SegmentationHead, segmentation_loss, upsample


@dataclass(frozen=True)
class Labels:
    """What stage 1 makes of a batch, all without annotations. K is 19, or 8 if classes are merged.

    Attributes:
        patches: float32 (B, 3, S, S), normalised network input.
        masks: int64 (B, S, S), the patches' parsing masks.
        parts: float32 (B, K), 1 for the classes that dominate the patch.
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
    """The network with the heads of all tasks that have a weight."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        tasks, classes = config.pretrain.tasks, CLASS_SETS[config.pretrain.classes]
        self.network = build(config.network, config.pretrain.recompute)
        channels, tiles = self.network.channels, config.network.tiles
        upscale = config.pretrain.segmentation_upscale
        self.segmentation = (
            SegmentationHead(channels, len(classes.names), upscale) if tasks.segmentation else None
        )
        self.classification = ClassificationHead(channels, classes.branches) if tasks.classification else None
        self.rotation = (
            RotationHead(channels, tiles, bool(tasks.rotation), bool(tasks.angle), self.network.takes_rows)
            if reads_tiles(config.pretrain)
            else None
        )
        self.fusion = Fusion(channels) if tasks.agreement else None
        self.reads_patches = reads_patches(config.pretrain)
        self.reads_branches = reads_branches(config.pretrain)
        self.network.freeze_unread(read_features(config.pretrain))

    def forward(self, patches: Tensor, tiles: Tensor) -> Outputs:
        """Answers for float (B, 3, S, S) patches and float (B, 3*m*m, S, S) tiles."""
        nothing = patches.new_empty(0)
        segmentation = fused = whole = tile = angle = nothing
        classification: dict[str, Tensor] = {}
        if self.reads_patches:
            seen = self.network(patches, branches=self.reads_branches)
            if self.segmentation is not None:
                segmentation = self.segmentation(seen.backbone)
            if self.classification is not None:
                classification = self.classification(seen.branches)
            if self.fusion is not None:
                fused, whole = self.fusion(seen.branches), seen.branches["whole"].mean(dim=(2, 3))
        if self.rotation is not None:
            turned = self.network(self.rotation.enter(tiles), branches=False)
            tile, angle = self.rotation(turned.backbone)
        return Outputs(segmentation, classification, tile, angle, fused, whole)


def read_features(config: Pretrain) -> set[str]:
    """Names of the features that some task's gradient reaches: ``backbone`` and branches."""
    tasks = config.tasks
    read = {"backbone"} if tasks.segmentation or reads_tiles(config) else set()
    return read | set(BRANCHES if tasks.classification else LOCAL_BRANCHES if tasks.agreement else ())


def reads_branches(config: Pretrain) -> bool:
    """Whether any task reads the branches' features."""
    return bool(config.tasks.classification or config.tasks.agreement)


def reads_patches(config: Pretrain) -> bool:
    """Whether any task looks at patches."""
    return bool(config.tasks.segmentation) or reads_branches(config)


def reads_tiles(config: Pretrain) -> bool:
    """Whether any task looks at tiles."""
    return bool(config.tasks.rotation or config.tasks.angle)


def reads_masks(config: Pretrain) -> bool:
    """Whether labels need the masks; without them the loader need not decode any."""
    tasks = config.tasks
    counted = tasks.classification and not reads_parts(config)
    return bool(tasks.segmentation or counted) or (reads_tiles(config) and config.min_foreground > 0)


def reads_parts(config: Pretrain) -> bool:
    """Whether labels come from stored part counts: patches are made of whole cells then."""
    return bool(config.tasks.classification) and config.patch_grid is not None


def members(config: Pretrain) -> set[str]:
    """The members of a sample that the labels need."""
    optional = {"mask.png": reads_masks(config), "parts.npy": reads_parts(config)}
    return {"jpg", *(name for name, needed in optional.items() if needed)}


def load_samples(faces: Samples, batches: Iterable[list[int]], config: Config) -> Iterator[Batch]:
    """Read planned batches with no more members than the labels need; see `training.data.loader.load`."""
    settings = config.pretrain
    return load(faces, batches, members(settings), settings.loader_workers, config.stream)


def make_labels(batch: Batch, config: Config, generator: torch.Generator) -> Labels:
    """Make a batch's inputs and labels on the device that it lies on.

    Patches are made whatever the tasks: the averaged weights' batch-norm statistics are measured on
    them, and switching a task off changes no draw of the others.
    """
    settings, size = config.pretrain, config.network.input_size
    classes = CLASS_SETS[settings.classes]
    images, masks = batch.images, batch.masks
    if not reads_masks(settings):
        masks = torch.zeros(1, 1, 1, dtype=torch.uint8, device=images.device).expand(len(images), 1, 1)
    mirrored = torch.rand(len(images), generator=generator) < settings.flip
    images, masks = flip(images, masks, mirrored)
    grid = settings.patch_grid or images.shape[-1]
    corner, side = random_patches(len(images), images.shape[-1], grid, settings.patch_fraction, generator)
    corner = corner.to(images.device)[:, None]
    top, left = corner[..., 0], corner[..., 1]

    nothing = torch.empty(0, device=images.device)
    patch_masks, parts = nothing.long(), nothing
    turned = TurnedTiles(nothing, nothing.long(), nothing.long())
    if settings.tasks.segmentation or (settings.tasks.classification and not reads_parts(settings)):
        seen = classes.merge(crop(masks[:, None], top, left, side)[:, 0, 0])
        if settings.tasks.segmentation:
            patch_masks = resize_masks(seen, size)
        if settings.tasks.classification:
            parts = dominant_classes(count_classes(seen, len(classes.names)), settings.top_parts)
    if reads_parts(settings):
        cells = flip_cells(merge_cells(batch.cell_counts, grid), mirrored)
        counts = sum_cells(cells, top[:, 0], left[:, 0], side, images.shape[-1])
        parts = dominant_classes(classes.merge_counts(counts), settings.top_parts)
    if reads_tiles(settings):
        turned = turn_tiles(images, masks, config.network.tiles, size, settings, generator)
    return Labels(to_input(crop(images, top, left, side)[:, 0], size), patch_masks, parts, turned)


def flip(images: Tensor, masks: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Mirror the samples that bool (B,) `drawn` marks; left and right classes change places."""
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
        groups = CLASS_SETS[config.pretrain.classes].branches
        terms["classification"] = classification_loss(outputs.classification, labels.parts, groups)
    if weights.rotation:
        terms["rotation"] = rotation_loss(outputs.tile, labels.turned.tile)
    if weights.angle:
        terms["angle"] = rotation_loss(outputs.angle, labels.turned.angle)
    if weights.agreement:
        terms["agreement"] = fooling_loss(discriminator, outputs.fused)
    return terms


@torch.no_grad()
def accuracies(outputs: Outputs, labels: Labels) -> dict[str, float]:
    """Share of right answers on a batch of every task that gave any."""
    found = {}
    if outputs.segmentation.numel():
        predicted = upsample(outputs.segmentation, labels.masks.shape[-1]).argmax(1)
        found["segmentation_accuracy"] = (predicted == labels.masks).float().mean().item()
    if outputs.classification:
        groups = next(c.branches for c in CLASS_SETS.values() if len(c.names) == labels.parts.shape[-1])
        parts = [
            ((logits > 0) == labels.parts[:, list(groups[name])].bool()).float().mean()
            for name, logits in outputs.classification.items()
        ]
        found["classification_accuracy"] = torch.stack(parts).mean().item()
    if outputs.tile.numel():
        found["rotation_accuracy"] = (outputs.tile.argmax(1) == labels.turned.tile).float().mean().item()
    if outputs.angle.numel():
        found["angle_accuracy"] = (outputs.angle.argmax(1) == labels.turned.angle).float().mean().item()
    return found
