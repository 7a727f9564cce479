"""Face parsers behind one signature: from faces to masks, confidences and features."""

from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from common.classes import NUM_CLASSES
from common.errors import UserError
from common.hardware import hardware
from common.memory import keep_freed_memory
from common.pipeline_config import ParserPrecision
from pipeline.parse import backends, bisenet, onnx_file, parsenet, torchscript_file
from pipeline.parse.batch_size import FaceParser, Halving, Parsed
from pipeline.parse.class_map import ClassMap
from pipeline.parse.decision import most_probable
from pipeline.parse.embedder import Embedder, EmbedderFile, load_embedder
from pipeline.parse.features import face_features
from pipeline.parse.network import Network
from pipeline.parse.pixels import normalised
from pipeline.parse.quantize import int8_file
from pipeline.parse.sides import assign_sides


@dataclass(frozen=True)
class ParserFile:
    """A parser that is ready to be loaded, on any worker that sees its file.

    Attributes:
        kind: ``parse.parser``.
        path: of its weights or its network.
        sha256: of that file.
        class_map: format of its input, and its classes.
        size: side in pixels of its input.
        precision: of bisenet and parsenet; a file has its own.
        features: ``parse.features``.
        embedder: the network of ``parse.features_from``.
    """

    kind: str
    path: Path
    sha256: str
    class_map: ClassMap
    size: int
    precision: ParserPrecision
    features: Literal["pooled", "grid"] | None = None
    embedder: EmbedderFile | None = None

    @property
    def numbers(self) -> str:
        """The numbers that this machine computes in."""
        return backends.numbers(self.kind, self.precision)

    @property
    def numerics(self) -> str:
        """What a mask's bytes depend on besides the file: the class of hardware, and the numbers."""
        return f"{hardware().name}, {self.numbers}"


@lru_cache(maxsize=1)
def load_parser(file: ParserFile) -> FaceParser:
    """The parser, loaded once per process, on one thread or on the GPU.

    Raises:
        UserError: the file cannot be run.
    """
    torch.set_num_threads(1)
    keep_freed_memory()
    embed = None if file.embedder is None else load_embedder(file.embedder)
    return Halving(partial(_parse_faces, load_network(file), embed, file))


def load_network(file: ParserFile) -> Network:
    """The parser's network alone; a worker that does not see its int8 file makes it.

    Raises:
        UserError: the file cannot be run.
    """
    numbers = file.numbers
    if numbers == backends.INT8:
        int8 = int8_file(file.path, file.sha256, file.size, maps=file.features is not None)
        return onnx_file.load(int8, file.class_map, file.size)
    match file.kind:
        case "bisenet":
            return bisenet.load(file.path, numbers)
        case "parsenet":
            return parsenet.load(file.path, numbers)
        case "onnx":
            return onnx_file.load(file.path, file.class_map, file.size)
        case _:
            return torchscript_file.load(file.path, file.class_map)


def _parse_faces(
    network: Network, embed: Embedder | None, file: ParserFile, faces: NDArray[np.uint8]
) -> Parsed:
    """See `FaceParser`."""
    with torch.inference_mode():
        pixels = normalised(faces, file.class_map, file.size, network.device)
        if file.features and network.scores_and_maps:
            scores, *maps = network.scores_and_maps(pixels)
        else:
            scores, maps = network.scores(pixels), []
        count = len(file.class_map.classes)
        if scores.ndim != 4 or scores.shape[:2] != (len(faces), count):
            raise UserError(
                f"{file.path}: gives an output of shape {tuple(scores.shape)} for {len(faces)} faces; its "
                f"class map lists {count} classes, so ({len(faces)}, {count}, height, width) is expected"
            )
        classes, probability = most_probable(scores, file.class_map, file.size, faces.shape[1])
    masks = classes.cpu().numpy()
    if file.class_map.sides == "position":
        masks = assign_sides(masks)
    features = face_features(maps, masks, file.features) if maps and file.features else {}
    if embed is not None:
        features["embedding.npy"] = embed(faces)
    return masks, mean_by_class(probability.cpu().numpy(), masks), features


def mean_by_class(probability: NDArray[np.float32], masks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The mean probability of each class over its pixels, float32 (B, 19), of arrays (B, S, S)."""
    means = np.zeros((len(masks), NUM_CLASSES), np.float32)
    for mean, values, mask in zip(means, probability, masks, strict=True):
        count = np.bincount(mask.ravel(), minlength=NUM_CLASSES)
        mean[:] = np.bincount(mask.ravel(), values.ravel(), NUM_CLASSES) / np.maximum(count, 1)
    return means
