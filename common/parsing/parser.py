"""Face parsers behind one signature: from faces to masks, confidences and features.

What BiSeNet computes in where, and why: milliseconds of CPU per face at 448 pixels on one core, four faces at
a time, on an AMD EPYC (Zen 4, VNNI, bfloat16) and on an AVX2 machine without bfloat16: in PyTorch, float32
takes 211 and 284, bfloat16 108 and 2670; int8 in ONNX Runtime 54 and 126 (weights of 8 bits instead of 7); on
AVX2, float32 251 in ONNX Runtime and 273 in OpenVINO. Facexlib's loop at 512 pixels takes 322 and 541. The
mean F1 of the masks on 200 pairs of CelebAMask-HQ (``python -m benchmarks.parser_quality``) is 0.827, in int8
0.826.

AMX, ARM and GPUs were not at hand: CPUs with AMX are taken for other x86 CPUs, and all others use PyTorch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from common.errors import UserError
from common.hardware import Hardware, hardware
from common.memory import keep_freed_memory
from common.parsing import facexlib_networks
from common.parsing.class_map import ClassMap
from common.parsing.features import Embedder, EmbedderFile, joined, load_embedder, pooled_features
from common.parsing.masks import assign_sides, mean_by_class, most_probable
from common.parsing.network import Network, load_onnx, load_torchscript, normalised
from common.parsing.quantize import int8_file
from common.pipeline_config import ParserPrecision

# 8-bit weights and activations in ONNX Runtime; PyTorch computes in all other precisions.
INT8: Final = "int8"
CPU_BATCH: Final = 4  # Faces per forward pass on a CPU, which gains nothing by more
# Faces per forward pass on a GPU; fewer where its memory does not hold them. Never measured.
GPU_BATCH: Final = 64
Parsed = tuple[NDArray[np.uint8], NDArray[np.float32], dict[str, NDArray[Any]]]
FaceParser = Callable[[NDArray[np.uint8]], Parsed]
"""From faces, uint8 RGB (B, S, S, 3), to

- masks, uint8 (B, S, S), classes 0..18;
- confidences, float32 (B, 19): the mean probability of a class over the pixels that were
  given it, 0 where there are none;
- features by member of a sample, (B, ...), see `common.parsing.features`.
"""


@dataclass(frozen=True)
class ParserFile:
    """A parser that is ready to be loaded, on any worker that sees its file."""

    kind: str  # ``parse.parser``
    path: Path  # of its weights or its network
    sha256: str  # of that file
    class_map: ClassMap  # format of its input, and its classes
    size: int  # side in pixels of its input
    precision: ParserPrecision  # of bisenet and parsenet; a file has its own
    embedders: tuple[EmbedderFile, ...] = ()  # the networks of ``parse.features_from``

    @property
    def computes_in(self) -> str:
        """The precision that this machine computes in; ``onnx file`` and the like have their own."""
        return effective_precision(self.kind, self.precision, hardware())

    @property
    def backend(self) -> str:
        """What a mask's bytes depend on besides the file: the class of hardware, and the precision."""
        return f"{hardware().name}, {self.computes_in}"


def effective_precision(parser: str, precision: ParserPrecision, machine: Hardware) -> str:
    """The precision that `parser` computes in on a machine; an explicit one is obeyed.

    ``auto`` is int8 for BiSeNet on x86 CPUs, else what `common.hardware` says.
    """
    if parser in ("onnx", "torchscript"):
        return f"{parser} file"
    if precision == INT8 or (parser == "bisenet" and precision == "auto" and machine.x86):
        return INT8
    return machine.dtype(precision)


def faces_per_pass() -> int:
    """How many faces this machine parses together."""
    return CPU_BATCH if hardware().device.type == "cpu" else GPU_BATCH


@lru_cache(maxsize=1)
def load_parser(file: ParserFile) -> FaceParser:
    """The parser, loaded once per process, on one thread or on the GPU.

    Raises:
        UserError: the file cannot be run.
    """
    torch.set_num_threads(1)
    keep_freed_memory()
    embedders = [load_embedder(each) for each in file.embedders]
    return SplitOnMemoryError(partial(_parse_faces, load_network(file), embedders, file))


def load_network(file: ParserFile) -> Network:
    """The parser's network alone; a worker that does not see its int8 file makes it.

    Raises:
        UserError: the file cannot be run.
    """
    if (int8 := file.computes_in == INT8) or file.kind == "onnx":
        path = int8_file(file.path, file.sha256, file.size) if int8 else file.path
        return load_onnx(path, file.class_map, file.size, facexlib_networks.MAPS)
    if file.kind == "torchscript":
        return load_torchscript(file.path, file.class_map)
    return facexlib_networks.load(file.kind, file.path, file.computes_in)


def _parse_faces(
    network: Network, embedders: Sequence[Embedder], file: ParserFile, faces: NDArray[np.uint8]
) -> Parsed:
    with torch.inference_mode():
        pixels = normalised(faces, file.class_map, file.size, network.device)
        scores, *maps = network.outputs(pixels)
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
        features: dict[str, NDArray[Any]] = {"pooled.npy": pooled_features(maps, masks)} if maps else {}
    if embedders:
        features["embedding.npy"] = joined(
            {name: values for embed in embedders for name, values in embed(faces, masks).items()}
        )
    return masks, mean_by_class(probability.cpu().numpy(), masks), features


class SplitOnMemoryError:
    """A parser that splits its batches when the GPU's memory does not hold them, and remembers the size."""

    def __init__(self, parse: FaceParser) -> None:
        self._parse, self._limit = parse, 1 << 30

    def __call__(self, faces: NDArray[np.uint8]) -> Parsed:
        """As `FaceParser`; a `torch.OutOfMemoryError` if the memory does not hold a single face."""
        parts: list[Parsed] = []
        done = 0
        while done < len(faces):
            part = faces[done : done + self._limit]
            try:
                parts.append(self._parse(part))
            except torch.OutOfMemoryError:
                if len(part) == 1:
                    raise
                self._limit = len(part) // 2
                torch.cuda.empty_cache()
            else:
                done += len(part)
        masks, confidences, features = zip(*parts, strict=True)
        joined = {name: np.concatenate([each[name] for each in features]) for name in features[0]}
        return np.concatenate(masks), np.concatenate(confidences), joined
