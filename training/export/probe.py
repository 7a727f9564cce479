"""A probe without PyTorch: the networks that it reads as ONNX files, its arrays, and a script of NumPy."""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from common.classes import CLASSES
from common.errors import UserError
from common.files import replacing, write_bytes, write_text
from common.parsing.class_map import InputFormat
from common.parsing.facexlib_networks import MAPS, bisenet
from common.parsing.masks import resampling
from common.parsing.network import export_onnx
from common.parsing.parser import INT8, ParserFile
from common.parsing.quantize import int8_file
from common.weights import file_sha256
from training.export import standalone
from training.export.comparison import Probabilities
from training.models.exported import ARRAYS
from training.models.probe import Probe
from training.models.region_probe import POWER, WIDTH, RegionProbe

SCRIPT: Final = "predict.py"
PARSER: Final = "parser.onnx"
FEATURES: Final = "features"
"""Folder of the networks whose features are read besides."""


def export_networks(parser: ParserFile, output: Path) -> dict[str, Any]:
    """Write the parser and the networks of features, with a description beside each.

    Returns:
        What `training.data.provenance.parsing` says, of these files, whose names are relative.

    Raises:
        UserError: a network cannot be had as ONNX, or the script cannot read it.
    """
    size, class_map = parser.size, parser.class_map
    if parser.kind not in ("bisenet", "onnx") or class_map.classes != CLASSES or class_map.layout != "NCHW":
        raise UserError(
            f"{parser.path}: the faces were parsed by it, but a probe can be exported with bisenet alone"
        )
    if parser.kind == "onnx" or parser.computes_in == INT8:
        file = parser.path if parser.kind == "onnx" else int8_file(parser.path, parser.sha256, size)
        write_bytes(output / PARSER, file.read_bytes())
    else:
        with replacing(output / PARSER) as temporary:
            export_onnx(bisenet(parser.path), size, temporary, ["logits", *MAPS])
    _describe(output / PARSER, class_map, size)
    files = {each.name: f"{FEATURES}/{each.name}.onnx" for each in parser.embedders}
    for each in parser.embedders:
        if each.path.suffix != ".onnx" or each.input_format.layout != "NCHW":
            raise UserError(f"{each.path}: not an ONNX file of NCHW layout, so it cannot be exported")
        write_bytes(output / files[each.name], each.path.read_bytes())
        _describe(output / files[each.name], each.input_format, each.input_format.size)
    return {
        "parser": "onnx",
        "size": size,
        "sha256": file_sha256(output / PARSER),
        "networks": {name: file_sha256(output / file) for name, file in files.items()},
        "numerics": ["onnx file"],
        "file": PARSER,
        "features_from": [*files.values()],
    }


def _describe(network: Path, form: InputFormat, size: int) -> None:
    described = form.model_copy(update={"size": size})
    write_text(network.with_suffix(".json"), described.model_dump_json(indent=1) + "\n")


def export_probe(
    probe: Probe, labels: str, parser: ParserFile, side: int, output: Path
) -> dict[str, Probabilities]:
    """Write `ARRAYS` and the script.

    Args:
        probe: the classifier.
        labels: the text of ``config.json``.
        parser: of the faces.
        side: of aligned faces, in pixels.
        output: folder with the networks.

    Returns:
        What the script computes, by its name.

    Raises:
        UserError: the probe reads no features of the parser.
    """
    if "pooled" not in probe.blocks:
        raise UserError("the classifier reads no features of bisenet, so it cannot be exported; fit it again")
    state = probe.state()
    arrays = {name: value.numpy() for name, value in state.items() if isinstance(value, torch.Tensor)}
    other = {name: value for name, value in state.items() if name not in arrays}
    corners = parser.class_map.coarse == "corners"
    extras: dict[str, Any] = {
        "blocks": probe.blocks,
        "networks": [each.name for each in parser.embedders],
        "resize": resampling(parser.size // 8, parser.size, side, corners).numpy(),
    }
    if isinstance(probe, RegionProbe):
        share = probe.prediction_share
        extras |= {"columns": probe.columns, "prediction_share": share, "width": WIDTH, "power": POWER}
    extras |= {"state": json.dumps(other), "labels": labels}
    with replacing(output / ARRAYS) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays, **extras)  # type: ignore[arg-type]
    write_bytes(output / SCRIPT, Path(standalone.__file__).read_bytes())
    logits_of = standalone.load(output)
    return {SCRIPT: lambda faces: 1 / (1 + np.exp(-np.stack([logits_of(face) for face in faces])))}
