"""Face parsers behind one signature: from faces to masks, confidences and features."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from common.classes import CLASSES, NUM_CLASSES
from common.errors import UserError
from common.hardware import hardware
from common.memory import keep_freed_memory
from common.pipeline_config import ParserPrecision
from pipeline.parse import backends, bisenet, onnx_file, parsenet, torchscript_file
from pipeline.parse.class_map import ClassMap
from pipeline.parse.features import face_features
from pipeline.parse.network import Network
from pipeline.parse.sides import assign_sides

Parsed = tuple[NDArray[np.uint8], NDArray[np.float32], dict[str, NDArray[np.float16]]]
FaceParser = Callable[[NDArray[np.uint8]], Parsed]
"""From faces, uint8 RGB (B, S, S, 3), to

- masks, uint8 (B, S, S), classes 0..18;
- confidences, float32 (B, 19): the mean probability of a class over the pixels that were
  given it, 0 where there are none;
- features by member of a sample, float16 (B, ...), see `pipeline.parse.features`; none unless configured.
"""


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
        int8: the ONNX file of bisenet in int8, or None if it is not used; features need PyTorch.
        features: ``parse.features``.
    """

    kind: str
    path: Path
    sha256: str
    class_map: ClassMap
    size: int
    precision: ParserPrecision
    int8: Path | None = None
    features: Literal["pooled", "grid"] | None = None

    @property
    def numbers(self) -> str:
        """The numbers that this machine computes in; without a file in int8 those of PyTorch."""
        chosen = backends.numbers(self.kind, self.precision)
        usable = self.precision == backends.INT8 or (self.int8 is not None and self.int8.is_file())
        return chosen if chosen != backends.INT8 or usable else hardware().numbers("auto")

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
    return partial(_parse_faces, load_network(file), file)


def load_network(file: ParserFile) -> Network:
    """The parser's network alone.

    Raises:
        UserError: the file cannot be run.
    """
    numbers = file.numbers
    if numbers == backends.INT8 and file.int8:
        return onnx_file.load(file.int8, file.class_map, file.size)
    match file.kind:
        case "bisenet":
            return bisenet.load(file.path, numbers)
        case "parsenet":
            return parsenet.load(file.path, numbers)
        case "onnx":
            return onnx_file.load(file.path, file.class_map, file.size)
        case _:
            return torchscript_file.load(file.path, file.class_map)


def _parse_faces(network: Network, file: ParserFile, faces: NDArray[np.uint8]) -> Parsed:
    """See `FaceParser`."""
    with torch.inference_mode():
        pixels = normalised(faces, file.class_map, file.size, network.device)
        if file.features and network.scores_and_maps:
            scores, maps = network.scores_and_maps(pixels)
        else:
            scores, maps = network.scores(pixels), []
        count = len(file.class_map.classes)
        if scores.ndim != 4 or scores.shape[:2] != (len(faces), count):
            raise UserError(
                f"{file.path}: gives an output of shape {tuple(scores.shape)} for {len(faces)} faces; its "
                f"class map lists {count} classes, so ({len(faces)}, {count}, height, width) is expected"
            )
        scores = _resample(scores.float(), file.size, faces.shape[1], file.class_map.coarse == "corners")
        if file.class_map.values == "logits" and file.class_map.classes == CLASSES:
            highest, classes = scores.max(dim=1)
            # Softmax at its maximum, without the softmax.
            probability = scores.sub_(highest[:, None]).exp_().sum(dim=1).reciprocal_()
        else:
            probabilities = scores.softmax(dim=1) if file.class_map.values == "logits" else scores
            probability, classes = _in_our_order(probabilities, file.class_map).max(dim=1)
    masks = classes.to(torch.uint8).cpu().numpy()
    if file.class_map.sides == "position":
        masks = assign_sides(masks)
    features = face_features(maps, masks, file.features) if maps and file.features else {}
    return masks, _mean_by_class(probability.cpu().numpy(), masks), features


def normalised(faces: NDArray[np.uint8], class_map: ClassMap, size: int, device: torch.device) -> Tensor:
    """RGB faces, uint8 (B, S, S, 3), as the network's input, float32 (B, 3, size, size)."""
    pixels = torch.from_numpy(faces).to(device).permute(0, 3, 1, 2).float().div_(class_map.scale)
    pixels = F.interpolate(pixels, (size, size), mode="bilinear", align_corners=False)
    if class_map.channels == "BGR":
        pixels = pixels.flip(1)
    mean, std = (
        torch.tensor(values, device=device)[:, None, None] for values in (class_map.mean, class_map.std)
    )
    return (pixels - mean) / std


def _resample(scores: Tensor, input_size: int, stored: int, corner_aligned: bool) -> Tensor:
    """Scores (B, C, h, w) at the stored size (B, C, S, S), resized bilinearly by way of the input's size."""
    rows, columns = (
        _resampling(side, input_size, stored, corner_aligned).to(scores.device) for side in scores.shape[-2:]
    )
    return torch.matmul(rows.T, torch.matmul(scores, columns))


@lru_cache(maxsize=8)
def _resampling(side: int, input_size: int, stored: int, corner_aligned: bool) -> Tensor:
    """Both bilinear resizes of one axis, side to input_size to stored, as one matrix (side, stored).

    Resizing is linear, so the scores need not be computed at the size of the network's input.
    """
    steps = torch.eye(side)[None]
    if side != input_size:
        steps = F.interpolate(steps, input_size, mode="linear", align_corners=corner_aligned)
    if input_size != stored:
        steps = F.interpolate(steps, stored, mode="linear", align_corners=False)
    return steps[0]


def _in_our_order(probabilities: Tensor, class_map: ClassMap) -> Tensor:
    """Probabilities of the 19 classes (B, 19, H, W) from those of the file's classes (B, C, H, W)."""
    if class_map.classes == CLASSES:
        return probabilities
    ours = torch.tensor([CLASSES.index(name) for name in class_map.classes], device=probabilities.device)
    batch, _, height, width = probabilities.shape
    merged = probabilities.new_zeros((batch, NUM_CLASSES, height, width))
    return merged.index_add_(1, ours, probabilities)


def _mean_by_class(probability: NDArray[np.float32], masks: NDArray[np.uint8]) -> NDArray[np.float32]:
    means = np.zeros((len(masks), NUM_CLASSES), np.float32)
    for mean, values, mask in zip(means, probability, masks, strict=True):
        count = np.bincount(mask.ravel(), minlength=NUM_CLASSES)
        mean[:] = np.bincount(mask.ravel(), values.ravel(), NUM_CLASSES) / np.maximum(count, 1)
    return means
