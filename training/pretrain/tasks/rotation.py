"""PRT, the patch rotation task: which patch of the face was rotated, and by what angle.

Spatial self-supervision. The face is divided into m x m patches; from each a random
crop is taken, so that borders give nothing away; every crop is normalised on its
own, and one that is not mostly background is rotated by a multiple of 90 degrees.
The crops are stacked on the channel axis.
"""

from typing import Annotated, Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from common.errors import UserError
from common.section import Weight
from training.data.transforms import resize_images
from training.models import LOCAL_BRANCHES, Features
from training.models.blocks import activation, convolution
from training.pretrain.tasks.base import (
    PretextTask,
    TaskConfig,
    TaskContext,
    TaskMetric,
    Tensors,
    share_correct,
)
from training.pretrain.tasks.panel import CORRECT, SIDE, WRONG, Column, Image, canvas, scaled, write
from training.pretrain.tasks.patches import Crops, crop


class RotationConfig(TaskConfig):
    """Settings of the rotation.

    angle_weight: weight of the angle's loss beside the position's (0: the angle is not predicted).
    grid: patches per side of the face (m). crop_fraction: side of the crop within a patch. angles: rotations
    in degrees, counter-clockwise, that are drawn from. jitter: greatest shift of a colour channel, in 1/255.
    min_foreground: a patch may be rotated if the sum of its mask's class numbers is at least this share of
    its pixel count (0: any patch may). position_of_unrotated: whether the position is asked for where the
    angle is 0, so that no patch looks rotated; as published, but such targets are noise.
    """

    angle_weight: Weight
    grid: Annotated[int, Field(ge=2, le=4)]
    crop_fraction: Annotated[float, Field(gt=0, le=1)]
    angles: Annotated[list[Literal[0, 90, 180, 270]], Field(min_length=1)]
    jitter: Annotated[int, Field(ge=0, le=64)]
    min_foreground: Weight
    position_of_unrotated: bool

    @model_validator(mode="after")
    def _angle_is_predictable(self) -> "RotationConfig":
        if self.angle_weight and len(set(self.angles)) < 2:
            raise ValueError("a single angle leaves nothing to predict; set angle_weight to 0, or add angles")
        return self


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
    reads_patch = False

    def __init__(self, config: RotationConfig, context: TaskContext) -> None:
        super().__init__(config, context)
        if context.takes_rows and config.grid != len(LOCAL_BRANCHES):
            raise UserError(
                f"pretrain.tasks.rotation.grid={config.grid}: this network feeds a row of patches to each of "
                f"its {len(LOCAL_BRANCHES)} local branches; set it to {len(LOCAL_BRANCHES)}"
            )
        self.head = RotationHead(context.channels, config.grid, config.angle_weight > 0, context.takes_rows)

    def members(self) -> frozenset[str]:
        """The mask, if it says which patches may be rotated."""
        return frozenset({"mask.png"} if self.config.min_foreground > 0 else ())

    def images(self, targets: Tensors) -> Tensor | dict[str, Tensor]:
        """The stacked patches, brought to three channels."""
        return self.head.enter(targets["patches"])

    def targets(self, crops: Crops, generator: torch.Generator) -> dict[str, Tensor]:
        """Cut, rotate and normalise the patches."""
        return rotate_patches(crops.images, crops.masks, self.config, self.context.input_size, generator)

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Logits of the position, and of the angle if it is predicted."""
        return self.head(features.backbone)

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

    def term_weight(self, term: str) -> float:
        """The angle's loss has a weight of its own."""
        return self.config.weight * (self.config.angle_weight if term == "angle_loss" else 1.0)

    def metrics(self) -> tuple[TaskMetric, ...]:
        """The accuracies of both outputs."""
        position = share_correct("position")
        metrics = [TaskMetric("position_accuracy", "rotated patch", position, chance=1 / self.config.grid**2)]
        if self.config.angle_weight > 0:
            chance = 1 / len(set(self.config.angles))
            metrics.append(
                TaskMetric("angle_accuracy", "rotation angle", share_correct("angle"), chance=chance)
            )
        return tuple(metrics)

    def observe(self, outputs: Tensors, targets: Tensors) -> dict[str, Tensor]:
        """Which predictions are correct, bool (B,) for each output."""
        return {name: (logits.argmax(1) == targets[name]).cpu() for name, logits in outputs.items()}

    def panel(self, crops: Crops, targets: Tensors, outputs: Tensors, rows: int) -> list[Column]:
        """The patches as the network sees them, with the rotated and the predicted one framed."""
        cells = []
        for row in range(rows):
            patches = targets["patches"][row].float().cpu().unflatten(0, (self.config.grid**2, 3))
            true = {name: int(targets[name][row]) for name in outputs}
            predicted = {name: int(logits[row].argmax()) for name, logits in outputs.items()}
            cells.append(_draw(patches, self.config.grid, true, predicted))
        return [Column("rotated patch: target, predicted", cells)]


def rotate_patches(
    images: Tensor, masks: Tensor, config: RotationConfig, size: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Make the targets of a batch; see `RotationTask`.

    Args:
        images: uint8 (B, 3, H, H).
        masks: uint8 (B, H, H), classes 0..18; not looked at if any patch may be rotated.
        config: grid, crop share, angles, jitter and foreground threshold.
        size: side of the resized patches in pixels, S.
        generator: CPU generator.
    """
    batch, device, grid = len(images), images.device, config.grid
    count, side = grid * grid, images.shape[-1] // grid
    edges = torch.arange(grid, device=device) * images.shape[-1] // grid
    top, left = edges.repeat_interleave(grid), edges.repeat(grid)

    if config.min_foreground > 0:
        eligible = foreground(masks, grid, config.min_foreground)
    else:
        eligible = torch.ones(batch, count, dtype=torch.bool, device=device)
    position = choose_position(eligible, generator)
    quarter_turns = torch.tensor(config.angles) // 90
    drawn = torch.randint(0, len(quarter_turns), (batch,), generator=generator)
    angle = quarter_turns[drawn].to(device, non_blocking=True)

    crop_side = max(1, round(side * config.crop_fraction))
    corner = torch.randint(0, side - crop_side + 1, (batch, count, 2), generator=generator).to(
        device, non_blocking=True
    )
    crops = crop(images, top + corner[..., 0], left + corner[..., 1], crop_side)
    # Rotating and shifting the small crops, before the resize, gives the same patches for less work.
    sample = torch.arange(batch, device=device)
    chosen = crops[sample, position]
    crops[sample, position] = torch.stack([chosen.rot90(k, (2, 3)) for k in range(4)])[angle, sample]
    limit = config.jitter
    jitter = torch.randint(-limit, limit + 1, (batch, count, 3, 1, 1), generator=generator).to(
        device, non_blocking=True
    )
    crops = (crops.short() + jitter.short()).clamp_(0, 255).to(torch.uint8)
    patches = normalise(resize_images(crops.flatten(0, 1), size)).view(batch, count * 3, size, size)
    return {"patches": patches, "position": position, "angle": angle}


def foreground(masks: Tensor, grid: int, share: float) -> Tensor:
    """Which patches are not mostly background, bool (B, m*m).

    The published measure: the sum of a patch's class numbers is at least `share` of its pixel count.
    """
    side = masks.shape[-1] // grid
    edges = [number * masks.shape[-1] // grid for number in range(grid)]
    totals = [
        masks[:, top : top + side, left : left + side].sum(dim=(1, 2), dtype=torch.int32)
        for top in edges
        for left in edges
    ]
    return torch.stack(totals, dim=1) >= share * side * side


def choose_position(eligible: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a patch per sample: the first eligible of m*m draws, else the last draw.

    Args:
        eligible: bool (B, m*m).
        generator: CPU generator.

    Returns:
        int64 (B,).
    """
    batch, count = eligible.shape
    candidates = torch.randint(0, count, (batch, count), generator=generator).to(
        eligible.device, non_blocking=True
    )
    accepted = eligible.gather(1, candidates)
    accepted[:, -1] = True
    first = accepted.int().argmax(dim=1, keepdim=True)
    return candidates.gather(1, first)[:, 0]


def normalise(patches: Tensor) -> Tensor:
    """Zero mean and unit deviation per patch and channel, float (N, 3, S, S); flat ones become 0."""
    channels = patches.contiguous().flatten(0, 1).flatten(1)[None]
    return F.group_norm(channels, num_groups=channels.shape[1], eps=1e-6).view(patches.shape)


class RotationHead(nn.Module):
    """The layers around the network: stacked patches to three channels, backbone features to logits.

    Args:
        channels: C of the features.
        grid: m, patches per side.
        angle: whether the angle is predicted.
        rows: whether each local branch has its own entrance for a row of patches (2021).
    """

    def __init__(self, channels: int, grid: int, angle: bool = True, rows: bool = False) -> None:
        super().__init__()
        self.entrance = self._entrance(grid * grid)
        self.rows = nn.ModuleDict({name: self._entrance(grid) for name in LOCAL_BRANCHES} if rows else {})
        self.outputs = nn.ModuleDict({"position": nn.Linear(channels, grid * grid)})
        if angle:
            self.outputs["angle"] = nn.Linear(channels, 4)

    def enter(self, patches: Tensor) -> Tensor | dict[str, Tensor]:
        """The network's input, (B, 3, S, S), of patches (B, 3*m*m, S, S); by branch if it takes rows."""
        if not self.rows:
            return self.entrance(patches)
        rows = patches.chunk(len(LOCAL_BRANCHES), dim=1)
        local = {name: self.rows[name](row) for name, row in zip(LOCAL_BRANCHES, rows, strict=True)}
        return {"whole": self.entrance(patches), **local}

    def forward(self, backbone: Tensor) -> dict[str, Tensor]:
        """Logits of the position (B, m*m) and of the angle (B, 4), of features (B, C, h, w)."""
        pooled = backbone.mean(dim=(2, 3))
        return {name: layer(pooled) for name, layer in self.outputs.items()}

    def _entrance(self, patches: int) -> nn.Sequential:
        return nn.Sequential(convolution(3 * patches, 3, kernel=1), activation(3))


def _draw(patches: Tensor, grid: int, true: dict[str, int], predicted: dict[str, int]) -> Image:
    """The patches, float (m*m, 3, S, S); the target framed green, a wrong prediction orange; words below."""
    image, side, baseline = canvas(SIDE, 190), (SIDE - 18) // grid, SIDE - 4
    for number, patch in enumerate(patches):
        pixels = (patch.permute(1, 2, 0).numpy() * 50 + 128).clip(0, 255).astype(np.uint8)
        top, left = number // grid * side, number % grid * side
        image[top : top + side - 2, left : left + side - 2] = scaled(pixels, cv2.INTER_AREA, side - 2)
    frames = [(true["position"], CORRECT)]
    if predicted["position"] != true["position"]:
        frames.insert(0, (predicted["position"], WRONG))
    for number, colour in frames:
        top, left = number // grid * side, number % grid * side
        cv2.rectangle(image, (left + 1, top + 1), (left + side - 4, top + side - 4), colour, 3)
    words = {
        "position": f"patch {true['position'] + 1}, {predicted['position'] + 1}",
        "angle": f"{90 * true.get('angle', 0)}, {90 * predicted.get('angle', 0)} degrees",
    }
    for left, name in zip((0, 80), true, strict=False):
        colour = CORRECT if predicted[name] == true[name] else WRONG
        write(image, words[name], (left, baseline), colour)
    return image
