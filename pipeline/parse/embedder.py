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
from common.weights import file_sha256
from pipeline.parse import onnx_file, torchscript_file
from pipeline.parse.class_map import InputFormat, format_beside, read_format
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


def find_embedder(path: Path) -> EmbedderFile:
    """The network in a file.

    Raises:
        UserError: the file is missing, or has no description beside it, or one without a size.
    """
    path = path.absolute()
    if not path.is_file():
        raise UserError(f"{path} does not exist; parse.features_from names it")
    described = format_beside(path, "description")
    input_format = read_format(described, InputFormat, "description")
    if input_format.size is None:
        raise UserError(f"{described}: size must be the side of the network's input in pixels, not null")
    return EmbedderFile(path, file_sha256(path), input_format)


def load_embedder(file: EmbedderFile) -> Embedder:
    """The network, on one thread or on the GPU.

    Raises:
        UserError: the file cannot be run.
    """
    expected, size = file.input_format, file.input_format.size
    assert size is not None  # find_embedder() demands it
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
