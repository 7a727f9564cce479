"""BiSeNet with 8-bit weights and activations, made on this machine from the checked weights.

The network is quantised after training: weights per channel, activations by the range that they have on
painted portraits, so that no photo is needed. Weights have 7 bits: on x86 CPUs without VNNI a product of
8-bit weights and activations saturates, and with 7 the masks are the same on every processor.
"""

import logging
import sys
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from common.alignment.warp import central_square, warp
from common.files import readable_or_own, replacing
from common.freshness import code_hash, fingerprint
from common.parsing.facexlib_networks import BISENET, MAPS, bisenet
from common.parsing.network import export_onnx, normalised
from synthetic import iterate_portraits

CALIBRATION_FACES: Final = 32  # Faces from which the ranges of the activations are measured


def int8_file(weights: Path, sha256: str, size: int) -> Path:
    """The ONNX file of BiSeNet in int8 for faces of `size` pixels, beside its weights; made if it is missing.

    It lies in the user's own cache where the folder of the weights cannot be written. Its outputs are the
    logits and the feature maps, in float32. Its name depends on the checked weights, by their `sha256`, on
    `size`, on this code and on the packages that make it.
    """
    versions = map(version, ("torch", "onnx", "onnxruntime", "onnxscript"))
    key = fingerprint(sha256, size, CALIBRATION_FACES, code_hash(__name__), *versions)[:12]
    output = readable_or_own(weights.with_name(f"{weights.stem}-int8-{size}-{key}.onnx"))
    if not output.is_file():
        print(f"parse: preparing the int8 parser, once: {output} ...", file=sys.stderr, flush=True)
        # Painted faces as shards hold them, uint8 RGB (N, S, S, 3).
        portraits = islice(iterate_portraits(CALIBRATION_FACES, 1), CALIBRATION_FACES)
        images = [portrait.image for portrait in portraits]
        squares = [central_square(image.shape[1], image.shape[0], 256) for image in images]
        faces = np.stack([warp(image, square, 256) for image, square in zip(images, squares, strict=True)])
        pixels = normalised(faces, BISENET, size, torch.device("cpu")).numpy()
        with TemporaryDirectory() as folder, replacing(output) as temporary:
            plain = Path(folder, "float32.onnx")
            export_onnx(bisenet(weights), size, plain, ["logits", *MAPS])
            _quantize(plain, temporary, pixels)
    return output


class _Calibration(quantization.CalibrationDataReader):
    def __init__(self, pixels: NDArray[np.float32]) -> None:
        self._batches = iter(np.split(pixels, range(4, len(pixels), 4)))

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"pixels": batch}


def _quantize(plain: Path, output: Path, pixels: NDArray[np.float32]) -> None:
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # ONNX Runtime warns about each layer that stays float32
    prepared = plain.with_name("prepared.onnx")
    try:
        quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(output),
            _Calibration(pixels),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
        )
    finally:
        logger.setLevel(level)
