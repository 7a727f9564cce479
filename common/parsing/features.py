"""Features of faces that shards hold for the probes: BiSeNet's own, and those of a network of the user's.

BiSeNet's channels are reduced by a fixed orthogonal projection instead of a fitted one, so that shards made
anywhere at any time can be mixed. docs/method.md compares both.

The user's network, such as one trained on ImageNet or on faces, is an ONNX file, or a TorchScript file with
any other suffix, which ``parse.features_from`` names. Beside it lies a YAML or JSON file with the keys of
`common.parsing.class_map` from ``size`` to ``output``; ``size`` must be given. The network's output is
(B, D), or (B, D, h, w), which is averaged over positions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from common.classes import NUM_CLASSES
from common.errors import UserError
from common.parsing.class_map import InputFormat
from common.parsing.network import load_onnx, load_torchscript, normalised
from common.shards import FEATURE_CHANNELS

SEED: Final = 0
"""Of the projection."""

Embedder = Callable[[NDArray[np.uint8]], NDArray[np.float16]]
"""From faces, uint8 RGB (B, S, S, 3), to features, float16 (B, D)."""


def pooled_features(maps: list[Tensor], masks: NDArray[np.uint8]) -> NDArray[np.float16]:
    """The parser's features of a batch of faces, ``pooled.npy``.

    Args:
        maps: the parser's feature maps, float (B, C, h, w) each; the last one is used by region.
        masks: uint8 (B, S, S), classes 0..18.

    Returns:
        float16 (B, D): the means of all maps, then the mean of the projected last map over each of the 19
        classes, 0 for an absent class.
    """
    last = maps[-1].float()
    classes = torch.from_numpy(masks).to(last.device)[:, None].float()
    classes = F.interpolate(classes, last.shape[-2:], mode="nearest-exact")[:, 0].long()
    pixels = F.one_hot(classes.flatten(1), NUM_CLASSES).float()
    sums = torch.einsum("bpk,bcp->bkc", pixels, last.flatten(2))
    # Projected after pooling, which is linear too and costs less so.
    by_class = sums / pixels.sum(dim=1)[:, :, None].clamp(min=1) @ projection(last.shape[1]).to(last.device)
    means = [each.float().mean(dim=(2, 3)) for each in maps]
    return torch.cat([*means, by_class.flatten(1)], dim=1).half().cpu().numpy()


@lru_cache(maxsize=4)
def projection(channels: int) -> Tensor:
    """An orthogonal projection, float32 (C, 64) with orthonormal columns, the same in every process."""
    normal = np.random.default_rng(SEED).standard_normal((channels, FEATURE_CHANNELS))
    orthogonal, triangle = np.linalg.qr(normal)
    return torch.from_numpy((orthogonal * np.sign(np.diag(triangle))).astype(np.float32))


@dataclass(frozen=True)
class EmbedderFile:
    """A network of features that is ready to be loaded, on any worker that sees its file.

    Attributes:
        path: of the network.
        sha256: of that file.
        input_format: of its input.
        size: side of its input in pixels.
    """

    path: Path
    sha256: str
    input_format: InputFormat
    size: int


def load_embedder(file: EmbedderFile) -> Embedder:
    """The network, on one thread or on the GPU.

    Raises:
        UserError: the file cannot be run.
    """
    if file.path.suffix == ".onnx":
        network = load_onnx(file.path, file.input_format, file.size)
    else:
        network = load_torchscript(file.path, file.input_format)

    def embed(faces: NDArray[np.uint8]) -> NDArray[np.float16]:
        with torch.inference_mode():
            features, *_ = network.outputs(normalised(faces, file.input_format, file.size, network.device))
            features = features.float().mean(dim=(2, 3)) if features.ndim == 4 else features.float()
        if features.ndim != 2 or len(features) != len(faces):
            raise UserError(
                f"{file.path}: gives an output of shape {tuple(features.shape)} for {len(faces)} faces; "
                "(B, D) or (B, D, height, width) is expected, so choose another `output` or export it anew"
            )
        return features.cpu().numpy().astype(np.float16)

    return embed
