"""Features of faces that shards hold for the probes: BiSeNet's own, and those of further networks.

Channels of face regions are reduced by a fixed orthogonal projection instead of a fitted one, so that shards
made anywhere at any time can be mixed. docs/method.md compares both.

A further network, such as one trained on ImageNet or on faces, is an ONNX file, or a TorchScript file with
any other suffix, which ``parse.features_from`` lists. Beside it lies a YAML or JSON file with the keys of
`common.parsing.class_map.FeatureFormat`. Its outputs are (B, D), stored as they are, or maps, (B, C, h, w),
which are averaged; the last map is averaged over each face region, too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from common.cell_counts import cell_class_counts
from common.classes import NUM_CLASSES
from common.errors import UserError
from common.members import FEATURE_CHANNELS, OF_CLASSES
from common.parsing.class_map import FeatureFormat
from common.parsing.network import load_onnx, load_torchscript, normalised

# From faces, uint8 RGB (B, S, S, 3), and their masks, (B, S, S), to the network's features by field of
# ``embedding.npy``: under its name float16 (B, D), and with `OF_CLASSES` behind it, from maps, (B, 19, K).
Embedder = Callable[[NDArray[np.uint8], NDArray[np.uint8]], dict[str, NDArray[np.float16]]]


def pooled_features(maps: list[Tensor], masks: NDArray[np.uint8]) -> NDArray[np.float16]:
    """The parser's features of a batch of faces, ``pooled.npy``: float16 (B, D).

    They are the means of all `maps`, float (B, C, h, w) each, then the mean of the projected last one over
    each of the 19 classes of `masks`, uint8 (B, S, S), 0 for an absent class.
    """
    last = maps[-1]
    classes = torch.from_numpy(masks).to(last.device)[:, None].float()
    classes = F.interpolate(classes, last.shape[-2:], mode="nearest-exact")[:, 0].long()
    by_class = _by_class(last, F.one_hot(classes.flatten(1), NUM_CLASSES))
    means = [each.float().mean(dim=(2, 3)) for each in maps]
    return torch.cat([*means, by_class.flatten(1)], dim=1).half().cpu().numpy()


def _by_class(last: Tensor, pixels: Tensor) -> Tensor:
    """The mean of a map, (B, C, h, w), over each class, projected: float32 (B, 19, at most 64).

    `pixels`, (B, h x w, 19), are those of each class that count at each position.
    """
    pixels = pixels.to(last.device).float()
    sums = torch.einsum("bpk,bcp->bkc", pixels, last.float().flatten(2))
    # Projected after pooling, which is linear too and costs less so.
    return sums / pixels.sum(dim=1)[:, :, None].clamp(min=1) @ projection(last.shape[1]).to(last.device)


@lru_cache(maxsize=4)
def projection(channels: int) -> Tensor:
    """An orthogonal projection, float32 (C, at most 64) with orthonormal columns, the same everywhere."""
    normal = np.random.default_rng(0).standard_normal((channels, FEATURE_CHANNELS))
    orthogonal, triangle = np.linalg.qr(normal)
    return torch.from_numpy((orthogonal * np.sign(np.diag(triangle))).astype(np.float32))


@dataclass(frozen=True)
class EmbedderFile:
    """A network of features that is ready to be loaded, on any worker that sees its file."""

    name: str  # of its features
    path: Path
    sha256: str  # of the file
    input_format: FeatureFormat


def load_embedder(file: EmbedderFile) -> Embedder:
    """The network, on one thread or on the GPU; a `UserError` if the file cannot be run."""
    described = file.input_format
    if file.path.suffix == ".onnx":
        network = load_onnx(file.path, described, described.size)
    else:
        network = load_torchscript(file.path, described)

    def embed(faces: NDArray[np.uint8], masks: NDArray[np.uint8]) -> dict[str, NDArray[np.float16]]:
        edge = round(faces.shape[1] * (1 - described.crop) / 2)
        inner = slice(edge, faces.shape[1] - edge)
        with torch.inference_mode():
            pixels = normalised(faces[:, inner, inner], described, described.size, network.device)
            outputs = network.outputs(pixels)
            for output in outputs:
                if output.ndim not in (2, 4) or len(output) != len(faces):
                    raise UserError(
                        f"{file.path}: gives an output of shape {tuple(output.shape)} for {len(faces)} "
                        "faces; (B, D) or (B, D, height, width) is expected, so choose another `output` or "
                        "export it anew"
                    )
            maps = [output for output in outputs if output.ndim == 4]
            means = [each.float().mean(dim=(2, 3)) if each.ndim == 4 else each.float() for each in outputs]
            features = {file.name: torch.cat(means, dim=1)}
            if maps:
                side = maps[-1].shape[-1]  # eyes would fall through so coarse a map if a pixel stood for each
                counts = [cell_class_counts(mask[inner, inner], side).astype(np.int32) for mask in masks]
                pixels = torch.from_numpy(np.stack(counts)).flatten(1, 2)
                features[file.name + OF_CLASSES] = _by_class(maps[-1], pixels)
        return {name: values.half().cpu().numpy() for name, values in features.items()}

    return embed


def joined(features: dict[str, NDArray[np.float16]]) -> NDArray[np.void]:
    """The fields of ``embedding.npy``, float16 (B, ...) each, as one array (B,) that names them."""
    fields = [(name, values.dtype, values.shape[1:]) for name, values in features.items()]
    array = np.empty(len(next(iter(features.values()))), fields)
    for name, values in features.items():
        array[name] = values
    return array
