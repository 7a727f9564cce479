"""Features of whole faces from a network of the user's own, such as one trained on ImageNet or on faces.

``parse.features_from`` names an ONNX file, or a TorchScript file with any other suffix. Beside it lies a YAML
or JSON file with the keys of `pipeline.parse.class_map` from ``size`` to ``output``; ``size`` must be given.
The network's output is (B, D), or (B, D, h, w), which is averaged over positions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from common.errors import UserError
from pipeline.parse import onnx_file, torchscript_file
from pipeline.parse.class_map import InputFormat
from pipeline.parse.pixels import normalised

Embedder = Callable[[NDArray[np.uint8]], NDArray[np.float16]]
"""From faces, uint8 RGB (B, S, S, 3), to features, float16 (B, D)."""


@dataclass(frozen=True)
class EmbedderFile:
    """A network that is ready to be loaded, on any worker that sees its file.

    Attributes:
        path: of the network.
        sha256: of that file.
        input_format: of its input.
    """

    path: Path
    sha256: str
    input_format: InputFormat


def load_embedder(file: EmbedderFile) -> Embedder:
    """The network, on one thread or on the GPU.

    Raises:
        UserError: the file cannot be run.
    """
    expected, size = file.input_format, file.input_format.size
    assert size is not None  # pipeline.parse.find_parser.find_embedder demands it
    if file.path.suffix == ".onnx":
        network = onnx_file.load(file.path, expected, size)
    else:
        network = torchscript_file.load(file.path, expected)

    def embed(faces: NDArray[np.uint8]) -> NDArray[np.float16]:
        with torch.inference_mode():
            features = network.scores(normalised(faces, expected, size, network.device)).float()
            if features.ndim == 4:
                features = features.mean(dim=(2, 3))
        if features.ndim != 2 or len(features) != len(faces):
            raise UserError(
                f"{file.path}: gives an output of shape {tuple(features.shape)} for {len(faces)} faces; "
                "(B, D) or (B, D, height, width) is expected, so choose another `output` or export it anew"
            )
        return features.cpu().numpy().astype(np.float16)

    return embed
