"""``python -m pipeline.parse.quantize``: BiSeNet as an int8 ONNX file, for CPUs that are fast at int8.

The network is quantised after training: weights per channel, activations by the range that they have on
painted portraits, so that no photo is needed and the file is the same for everyone with the pinned versions.
The file is an ordinary parser (``parse.parser=onnx``) with its class map beside it.
"""

import logging
import time
from collections.abc import Iterator
from importlib import import_module
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from common import command
from common.alignment.warp import central_square, warp
from common.classes import NUM_CLASSES
from common.config import Config
from common.errors import UserError
from common.files import replacing, write_text
from pipeline.parse import bisenet
from pipeline.parse.find_parser import find_parser
from pipeline.parse.parser import FaceParser, ParserFile, load_parser, normalised
from synthetic import iterate_portraits

CALIBRATION_FACES: Final = 32
"""Faces from which the ranges of the activations are measured."""

CHECKED_FACES: Final = 16
"""Other faces, on which int8 and float32 are compared."""

SEED: Final = 1
BATCH: Final = 4


def quantize(config: Config, output: Path) -> None:
    """Write `output`, an ONNX file, and its class map; print how far its masks differ from float32's.

    Raises:
        UserError: a package is missing, or the weights cannot be obtained.
    """
    float32 = config.parse.model_copy(update={"parser": "bisenet", "precision": "float32"})
    exact = find_parser(float32, config.weights)
    faces = _portraits(CALIBRATION_FACES + CHECKED_FACES, config.align.size)
    pixels = normalised(faces[:CALIBRATION_FACES], exact, torch.device("cpu")).numpy()
    with TemporaryDirectory() as folder, replacing(output) as temporary:
        plain = Path(folder, "float32.onnx")
        _export(exact, plain)
        _quantize(plain, Path(folder, "int8.onnx"), pixels)
        Path(temporary).write_bytes(Path(folder, "int8.onnx").read_bytes())
    class_map = exact.class_map.model_dump(mode="json") | {"size": exact.size}
    write_text(output.with_suffix(".yaml"), yaml.safe_dump(class_map, sort_keys=False))
    quantized = find_parser(
        config.parse.model_copy(update={"parser": "onnx", "size": exact.size}),
        config.weights.model_copy(update={"parser": str(output), "class_map": None}),
    )
    print(f"quantize: {output} ({output.stat().st_size / 1e6:.1f} MB), sha256 {quantized.sha256}")
    _compare(load_parser(exact), load_parser(quantized), faces[CALIBRATION_FACES:])


def _portraits(count: int, size: int) -> NDArray[np.uint8]:
    """Painted faces as shards hold them, uint8 RGB (N, S, S, 3)."""
    faces = []
    for portrait in islice(iterate_portraits(count, SEED), count):
        image = portrait.image
        faces.append(warp(image, central_square(image.shape[1], image.shape[0], size), size))
    return np.stack(faces)


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        missing = "pip install onnx onnxruntime onnxscript"
        raise UserError(f"an int8 file needs {name.partition('.')[0]}; run `{missing}`") from error


def _export(file: ParserFile, path: Path) -> None:
    _package("onnxscript")
    example = torch.zeros(2, 3, file.size, file.size)
    torch.onnx.export(
        bisenet.main_head(file.path),
        (example,),
        str(path),
        dynamo=True,
        external_data=False,
        dynamic_shapes=({0: torch.export.Dim("faces")},),
        input_names=["pixels"],
        output_names=["logits"],
        verbose=False,
    )


class _Calibration:
    """Feeds the portraits to ONNX Runtime batch by batch."""

    def __init__(self, pixels: NDArray[np.float32]) -> None:
        self._batches: Iterator[NDArray[np.float32]] = iter(
            np.split(pixels, range(BATCH, len(pixels), BATCH))
        )

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"pixels": batch}


def _quantize(plain: Path, output: Path, pixels: NDArray[np.float32]) -> None:
    quantization = _package("onnxruntime.quantization")
    preprocess = _package("onnxruntime.quantization.shape_inference").quant_pre_process

    logging.getLogger().setLevel(logging.ERROR)  # it warns about each layer that stays float32
    prepared = plain.with_name("prepared.onnx")
    preprocess(str(plain), str(prepared), skip_symbolic_shape=True)
    quantization.quantize_static(
        str(prepared),
        str(output),
        _Calibration(pixels),
        quant_format=quantization.QuantFormat.QDQ,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
    )


def _compare(exact: FaceParser, quantized: FaceParser, faces: NDArray[np.uint8]) -> None:
    masks, seconds = [], []
    for parse_faces in (exact, quantized):
        parse_faces(faces[:BATCH])
        start = time.process_time()
        batches = np.split(faces, range(BATCH, len(faces), BATCH))
        masks.append(np.concatenate([parse_faces(batch)[0] for batch in batches]))
        seconds.append((time.process_time() - start) / len(faces))
    same = float(np.mean(masks[0] == masks[1]))
    scores = []
    for number in range(1, NUM_CLASSES):
        one, other = masks[0] == number, masks[1] == number
        if one.any():
            scores.append(2 * (one & other).sum() / (one.sum() + other.sum()))
    print(
        f"quantize: {same:.2%} of the pixels of {len(faces)} painted faces are as in float32, mean F1 "
        f"against it {np.mean(scores):.3f}; "
        f"{seconds[1] * 1000:.0f} instead of {seconds[0] * 1000:.0f} ms of CPU per face"
    )


def main() -> None:
    """Read the command line and write the file."""
    parser = command.parser(
        "BiSeNet as an int8 ONNX file.",
        "  python -m pipeline.parse.quantize --output bisenet-int8.onnx\n"
        "  python -m pipeline.parse --input DIR --output OUT "
        "--set parse.parser=onnx --set weights.parser=bisenet-int8.onnx",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the .onnx file to write")
    options = parser.parse_args()
    quantize(command.config_from(options), options.output)


if __name__ == "__main__":
    command.run(main)
