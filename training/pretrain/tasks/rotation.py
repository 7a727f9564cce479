"""PRT, the patch rotation task: which patch of the face was rotated, and by what angle.

Spatial self-supervision. The face is divided into m x m patches, m = 3; from each a random crop is taken, so
that borders give nothing away; every crop is normalised on its own, and one that is not mostly background is
rotated by a multiple of 90 degrees. The crops are stacked on the channel axis.
"""

from collections.abc import Sequence
from typing import Annotated, Final, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from training.models import LOCAL_BRANCHES, Features
from training.models.blocks import activation, convolution, resize_images
from training.pretrain.tasks.base import PretextTask, TaskConfig, TaskContext, TaskMetric, Tensors, mean_of
from training.pretrain.tasks.patches import Crops, crop

# Patches per side of the face, m; ``sspl`` feeds a row of them to each of its local branches.
GRID: Final = len(LOCAL_BRANCHES)
CROP_FRACTION: Final = 0.88  # Side of the crop within a patch: 150 of about 171 pixels
JITTER: Final = 2  # Greatest shift of a colour channel, in 1/255
# A patch may be rotated if the sum of its mask's class numbers is at least this share of its pixel count.
MIN_FOREGROUND: Final = 0.25


class RotationConfig(TaskConfig):
    """Settings of the rotation."""

    angles: Annotated[list[Literal[0, 90, 180, 270]], Field(min_length=1)]
    """rotations in degrees, counter-clockwise, that are drawn from; a single one is not predicted"""
    position_of_unrotated: bool
    """whether the position is asked for where the angle is 0, so that no patch looks rotated; as published,
    but such targets are noise"""


class RotationTask(PretextTask[RotationConfig]):
    """Cross-entropies of the rotated patch's position and of its angle.

    Targets: ``patches``, float32 (B, m*m*3, S, S), in reading order, three channels each; ``position``,
    int64 (B,), 0..m*m-1; ``angle``, int64 (B,), quarter turns. Outputs: ``position``, float (B, m*m);
    ``angle``, float (B, 4), if it is predicted.
    """

    name = "rotation"
    abbreviation = "PRT"
    title = "Patch rotation"
    config_class = RotationConfig
    features = frozenset({"backbone"})
    members = frozenset({"mask.png"})  # which says which patches may be rotated
    reads_patch = False

    def __init__(self, config: RotationConfig, context: TaskContext) -> None:
        super().__init__(config, context)
        self.angles = len(set(config.angles))
        rows = LOCAL_BRANCHES if context.takes_rows else ()  # which have an entrance each (2021)
        outputs = {"position": GRID * GRID} | ({"angle": 4} if self.angles > 1 else {})
        self.head = nn.ModuleDict({"entrance": _entrance(GRID * GRID)})  # the names in checkpoints
        self.head["rows"] = nn.ModuleDict({name: _entrance(GRID) for name in rows})
        layers = {name: nn.Linear(context.channels, count) for name, count in outputs.items()}
        self.head["outputs"] = nn.ModuleDict(layers)

    def images(self, targets: Tensors) -> Tensor | dict[str, Tensor]:
        """The stacked patches, brought to three channels; for networks that take rows, by branch."""
        patches, entrances = targets["patches"], self.head["rows"].named_children()
        whole, rows = self.head["entrance"](patches), patches.chunk(len(LOCAL_BRANCHES), dim=1)
        local = {name: entrance(row) for (name, entrance), row in zip(entrances, rows, strict=False)}
        return {"whole": whole, **local} if local else whole

    def targets(self, crops: Crops, generator: torch.Generator) -> dict[str, Tensor]:
        """Cut, rotate and normalise the patches."""
        size, angles = self.context.input_size, self.config.angles
        return rotate_patches(crops.images, crops.masks, angles, size, generator)

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Logits of the position, and of the angle if it is predicted."""
        pooled = features.backbone.mean(dim=(2, 3))
        return {name: layer(pooled) for name, layer in self.head["outputs"].named_children()}

    def losses(self, outputs: Tensors, targets: Tensors) -> dict[str, Tensor]:
        """A cross-entropy for each output."""
        each = {
            name: F.cross_entropy(logits.float(), targets[name], reduction="none")
            for name, logits in outputs.items()
        }
        losses = {f"{name}_loss": loss.mean() for name, loss in each.items()}
        if not self.config.position_of_unrotated:
            rotated = targets["angle"] > 0
            losses["position_loss"] = each["position"].where(rotated, 0).sum() / rotated.sum().clamp(min=1)
        return losses

    def metrics(self) -> tuple[TaskMetric, ...]:
        """The accuracies of both outputs."""
        position = mean_of("position")
        metrics = [TaskMetric("position_accuracy", "rotated patch", position, chance=round(1 / GRID**2, 4))]
        if self.angles > 1:
            angle, chance = mean_of("angle"), round(1 / self.angles, 4)
            metrics.append(TaskMetric("angle_accuracy", "rotation angle", angle, chance=chance))
        return tuple(metrics)

    def observe(self, outputs: Tensors, targets: Tensors) -> dict[str, Tensor]:
        """Which predictions are correct, bool (B,) for each output."""
        return {name: (logits.argmax(1) == targets[name]).cpu() for name, logits in outputs.items()}


def rotate_patches(
    images: Tensor, masks: Tensor, angles: Sequence[int], size: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Make the targets of a batch, see `RotationTask`, of uint8 images (B, 3, H, H).

    Masks are uint8 (B, H, H), classes 0..18, `angles` the multiples of 90 degrees that are drawn from, by the
    CPU generator, and `size` is S, the side of the resized patches in pixels.
    """
    batch, device = len(images), images.device
    count, side = GRID * GRID, images.shape[-1] // GRID
    edges = torch.arange(GRID, device=device) * images.shape[-1] // GRID
    top, left = edges.repeat_interleave(GRID), edges.repeat(GRID)

    def drawn(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator).to(device, non_blocking=True)

    position = choose_position(foreground(masks), generator)
    quarter_turns = (torch.tensor(angles) // 90).to(device, non_blocking=True)
    angle = quarter_turns[drawn(0, len(angles), batch)]
    crop_side = max(1, round(side * CROP_FRACTION))
    corner = drawn(0, side - crop_side + 1, batch, count, 2)
    crops = crop(images, top + corner[..., 0], left + corner[..., 1], crop_side)
    # Rotating and shifting the small crops, before the resize, gives the same patches for less work.
    sample = torch.arange(batch, device=device)
    chosen = crops[sample, position]
    crops[sample, position] = torch.stack([chosen.rot90(k, (2, 3)) for k in range(4)])[angle, sample]
    jitter = drawn(-JITTER, JITTER + 1, batch, count, 3, 1, 1)
    crops = (crops.short() + jitter.short()).clamp_(0, 255).to(torch.uint8)
    patches = normalise(resize_images(crops.flatten(0, 1), size)).view(batch, count * 3, size, size)
    return {"patches": patches, "position": position, "angle": angle}


def foreground(masks: Tensor) -> Tensor:
    """Which patches of masks, uint8 (B, H, H), are not mostly background, bool (B, m*m).

    The published measure: the sum of a patch's class numbers is at least `MIN_FOREGROUND` of its pixel count.
    """
    side = masks.shape[-1] // GRID
    edges = [number * masks.shape[-1] // GRID for number in range(GRID)]
    totals = [
        masks[:, top : top + side, left : left + side].sum(dim=(1, 2), dtype=torch.int32)
        for top in edges
        for left in edges
    ]
    return torch.stack(totals, dim=1) >= MIN_FOREGROUND * side * side


def choose_position(eligible: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a patch per sample, int64 (B,): of m*m draws the first eligible, bool (B, m*m), or the last."""
    batch, count = eligible.shape
    candidates = torch.randint(0, count, (batch, count), generator=generator)
    candidates = candidates.to(eligible.device, non_blocking=True)
    accepted = eligible.gather(1, candidates)
    accepted[:, -1] = True
    first = accepted.int().argmax(dim=1, keepdim=True)
    return candidates.gather(1, first)[:, 0]


def normalise(patches: Tensor) -> Tensor:
    """Zero mean and unit deviation per patch and channel, float (N, 3, S, S); flat ones become 0."""
    channels = patches.contiguous().flatten(0, 1).flatten(1)[None]
    return F.group_norm(channels, num_groups=channels.shape[1], eps=1e-6).view(patches.shape)


def _entrance(patches: int) -> nn.Sequential:
    """The layers that bring stacked patches to three channels."""
    return nn.Sequential(convolution(3 * patches, 3, kernel=1), activation(3))
