"""What is stored of the parser's features: `pooled` over a face and its regions, and a coarse `grid`.

Channels are reduced by a fixed orthogonal projection instead of a fitted one, so that shards made anywhere
at any time can be mixed. docs/method.md compares both.
"""

from functools import lru_cache
from typing import Final, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from common.classes import NUM_CLASSES
from common.shards import FEATURE_GRID

SEED: Final = 0
"""Of the projection."""


def face_features(
    maps: list[Tensor], masks: NDArray[np.uint8], kind: Literal["pooled", "grid"]
) -> dict[str, NDArray[np.float16]]:
    """The feature members of a batch of faces.

    Args:
        maps: the parser's feature maps, float (B, C, h, w) each; the last one is used by region and cell.
        masks: uint8 (B, S, S), classes 0..18.
        kind: ``parse.features``.

    Returns:
        ``pooled.npy``, float16 (B, D): the means of all maps, then the mean of the projected last map
        over each of the 19 classes, 0 for an absent class. With ``grid`` also ``features.npy``,
        float16 (B, 8, 8, 64): means of the projected last map over cells.
    """
    last = maps[-1].float()
    projected = torch.einsum("bchw,cd->bdhw", last, projection(last.shape[1]).to(last.device))
    means = [each.float().mean(dim=(2, 3)) for each in maps]
    pooled = torch.cat([*means, _means_by_class(projected, masks).flatten(1)], dim=1)
    members = {"pooled.npy": pooled}
    if kind == "grid":
        cells = F.adaptive_avg_pool2d(projected, FEATURE_GRID[:2])
        members["features.npy"] = cells.permute(0, 2, 3, 1)
    return {name: values.half().cpu().numpy() for name, values in members.items()}


def _means_by_class(features: Tensor, masks: NDArray[np.uint8]) -> Tensor:
    """The mean of features (B, D, h, w) over the pixels of each class, (B, 19, D)."""
    classes = torch.from_numpy(masks).to(features.device)[:, None].float()
    classes = F.interpolate(classes, features.shape[-2:], mode="nearest-exact")[:, 0].long()
    pixels = F.one_hot(classes.flatten(1), NUM_CLASSES).float()
    sums = torch.einsum("bpk,bdp->bkd", pixels, features.flatten(2))
    return sums / pixels.sum(dim=1)[:, :, None].clamp(min=1)


@lru_cache(maxsize=4)
def projection(channels: int) -> Tensor:
    """An orthogonal projection, float32 (C, 64) with orthonormal columns, the same in every process."""
    normal = np.random.default_rng(SEED).standard_normal((channels, FEATURE_GRID[2]))
    orthogonal, triangle = np.linalg.qr(normal)
    return torch.from_numpy((orthogonal * np.sign(np.diag(triangle))).astype(np.float32))
