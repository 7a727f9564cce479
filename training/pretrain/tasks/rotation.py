"""PRT, the patch rotation task: which tile of the face was turned, and by how much.

Spatial self-supervision. The face is cut into m x m tiles; from each a random
crop is taken, so that tile borders give nothing away; every tile is normalised
on its own, and one that is not mostly background is turned by k * 90 degrees.
The tiles are stacked on the channel axis.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.config import Pretrain
from training.data.transforms import resize_images
from training.models import LOCAL_BRANCHES
from training.models.blocks import activation, convolution
from training.pretrain.tasks.patches import crop


@dataclass(frozen=True)
class TurnedTiles:
    """A batch of the task.

    Attributes:
        tiles: float32 (B, m*m*3, S, S), tiles in reading order, three channels each.
        tile: int64 (B,), which tile was turned, 0..m*m-1.
        angle: int64 (B,), quarter turns counter-clockwise, 0..3.
    """

    tiles: Tensor
    tile: Tensor
    angle: Tensor


def turn_tiles(
    images: Tensor, masks: Tensor, tiles: int, size: int, config: Pretrain, generator: torch.Generator
) -> TurnedTiles:
    """Make a batch of the task.

    Args:
        images: uint8 (B, 3, H, H).
        masks: uint8 (B, H, H), classes 0..18; not looked at if any tile may be turned.
        tiles: m, tiles per side.
        size: side of the resized tiles, S.
        config: crop share, quarter turns, jitter and foreground threshold.
        generator: CPU generator of all draws.
    """
    batch, device = len(images), images.device
    count, side = tiles * tiles, images.shape[-1] // tiles
    edges = torch.arange(tiles, device=device) * images.shape[-1] // tiles
    top, left = edges.repeat_interleave(tiles), edges.repeat(tiles)

    if config.min_foreground > 0:
        eligible = foreground(masks, tiles, config.min_foreground)
    else:
        eligible = torch.ones(batch, count, dtype=torch.bool, device=device)
    tile = choose_tile(eligible, generator)
    turns = torch.tensor(config.tile_turns)
    angle = turns[torch.randint(0, len(turns), (batch,), generator=generator)].to(device)

    cut = max(1, round(side * config.tile_fraction))
    corner = torch.randint(0, side - cut + 1, (batch, count, 2), generator=generator).to(device)
    crops = crop(images, top + corner[..., 0], left + corner[..., 1], cut)
    # Turning and shifting the small crops, before the resize, gives the same tiles for less work.
    which = torch.arange(batch, device=device)
    chosen = crops[which, tile]
    crops[which, tile] = torch.stack([chosen.rot90(k, (2, 3)) for k in range(4)])[angle, which]
    reach = config.tile_jitter
    jitter = torch.randint(-reach, reach + 1, (batch, count, 3, 1, 1), generator=generator).to(device)
    crops = (crops.short() + jitter.short()).clamp_(0, 255).to(torch.uint8)
    patches = resize_images(crops.flatten(0, 1), size)
    return TurnedTiles(normalise(patches).view(batch, count * 3, size, size), tile, angle)


def foreground(masks: Tensor, tiles: int, share: float) -> Tensor:
    """Which tiles are not mostly background, bool (B, m*m).

    The published measure: the sum of a tile's mask ids is at least `share` of its pixel count.
    """
    side = masks.shape[-1] // tiles
    edges = [tile * masks.shape[-1] // tiles for tile in range(tiles)]
    totals = [
        masks[:, top : top + side, left : left + side].sum(dim=(1, 2), dtype=torch.int32)
        for top in edges
        for left in edges
    ]
    return torch.stack(totals, dim=1) >= share * side * side


def choose_tile(eligible: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a tile per sample: the first eligible of m*m draws, else the last draw.

    Args:
        eligible: bool (B, m*m).
        generator: CPU generator.

    Returns:
        int64 (B,).
    """
    batch, count = eligible.shape
    draws = torch.randint(0, count, (batch, count), generator=generator).to(eligible.device)
    accepted = eligible.gather(1, draws)
    accepted[:, -1] = True
    first = accepted.int().argmax(dim=1, keepdim=True)
    return draws.gather(1, first)[:, 0]


def normalise(patches: Tensor) -> Tensor:
    """Zero mean and unit deviation per patch and channel, float (N, 3, S, S); flat ones become 0."""
    channels = patches.contiguous().flatten(0, 1).flatten(1)[None]
    return F.group_norm(channels, num_groups=channels.shape[1], eps=1e-6).view(patches.shape)


class RotationHead(nn.Module):
    """The task's entrance and exit: tiles to three channels, backbone features to its answers.

    Args:
        channels: C of the features.
        tiles: m, tiles per side.
        tile, angle: which of the two answers are given.
        rows: whether the local branches have their own entrance for a row of tiles each (2021).
    """

    def __init__(
        self, channels: int, tiles: int, tile: bool = True, angle: bool = True, rows: bool = False
    ) -> None:
        super().__init__()
        count = tiles * tiles
        self.entrance = self._entrance(count)
        self.rows = nn.ModuleDict({name: self._entrance(tiles) for name in LOCAL_BRANCHES} if rows else {})
        self.tile = nn.Linear(channels, count) if tile else None
        self.angle = nn.Linear(channels, 4) if angle else None

    def enter(self, tiles: Tensor) -> Tensor | dict[str, Tensor]:
        """The network's input, (B, 3, S, S), of tiles (B, 3*m*m, S, S); by branch if it takes rows."""
        if not self.rows:
            return self.entrance(tiles)
        rows = tiles.chunk(len(LOCAL_BRANCHES), dim=1)
        local = {name: self.rows[name](row) for name, row in zip(LOCAL_BRANCHES, rows, strict=True)}
        return {"whole": self.entrance(tiles), **local}

    def forward(self, backbone: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the tile (B, m*m) and the angle (B, 4); features (B, C, h, w); (0,) if not given."""
        pooled, nothing = backbone.mean(dim=(2, 3)), backbone.new_empty(0)
        return (
            nothing if self.tile is None else self.tile(pooled),
            nothing if self.angle is None else self.angle(pooled),
        )

    def _entrance(self, tiles: int) -> nn.Sequential:
        return nn.Sequential(convolution(3 * tiles, 3, kernel=1), activation(3))


def rotation_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy of tile logits, float (B, m*m), or angle logits, float (B, 4); truth is int64 (B,)."""
    return F.cross_entropy(logits.float(), truth)
