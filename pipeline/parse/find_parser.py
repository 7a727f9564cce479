"""From the configuration to a parser, and a network of features, that are ready to be loaded.

``parse.parser`` names facexlib's `bisenet` or `parsenet`, whose weights are known, or the
kind of the file that ``weights.parser`` names: `onnx` or `torchscript`, with its class map.
"""

from pathlib import Path
from typing import Final

from common.errors import UserError
from common.pipeline_config import Parse, Weights
from common.weights import KNOWN, file_sha256, find
from pipeline.parse import backends, bisenet, parsenet
from pipeline.parse.class_map import ClassMap, InputFormat, format_beside, read_format
from pipeline.parse.embedder import EmbedderFile
from pipeline.parse.parser import ParserFile
from pipeline.parse.quantize import int8_file

CLASS_MAPS: Final = {"bisenet": bisenet.CLASS_MAP, "parsenet": parsenet.CLASS_MAP}


def find_parser(parse: Parse, weights: Weights) -> ParserFile:
    """The configured parser; known weights are fetched if need be, and checked.

    Where this machine computes in int8, the file for that is made if it is missing, before all workers do.

    Raises:
        UserError: a file is missing, unknown or without a class map, or the parser has no features.
    """
    kind = parse.parser
    if parse.features and kind != "bisenet":
        raise UserError(
            f"parse.features={parse.features} needs parse.parser=bisenet, not {kind}; set it to null"
        )
    if kind in KNOWN:
        path, sha256, class_map = find(kind, weights), KNOWN[kind].sha256, CLASS_MAPS[kind]
    else:
        if weights.parser is None:
            raise UserError(f"parse.parser={kind} needs a file; name it with weights.parser")
        path = Path(weights.parser).absolute()
        if not path.is_file():
            raise UserError(f"{path} does not exist; weights.parser names it")
        sha256 = file_sha256(path)
        described = Path(weights.class_map) if weights.class_map else format_beside(path, "class map")
        class_map = read_format(described, ClassMap, "class map")
    size = class_map.size or parse.size
    if parse.precision == backends.INT8 and kind != "bisenet":
        raise UserError(
            f"parse.precision=int8 does not go with parse.parser={kind}; set the precision to auto"
        )
    if backends.numbers(kind, parse.precision) == backends.INT8:
        int8_file(path, sha256, size, maps=parse.features is not None)
    embedder = None if parse.features_from is None else find_embedder(Path(parse.features_from))
    return ParserFile(kind, path, sha256, class_map, size, parse.precision, parse.features, embedder)


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
