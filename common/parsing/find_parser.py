"""From the configuration to a parser, and networks of features, that are ready to be loaded.

``parse.parser`` names facexlib's `bisenet` or `parsenet`, whose weights are known, or the
kind of the file that ``weights.parser`` names: `onnx` or `torchscript`, with its class map.
"""

from pathlib import Path

from common.errors import UserError
from common.hardware import hardware
from common.parsing.class_map import NAMED, ClassMap, FeatureFormat, read_format_beside
from common.parsing.facexlib_networks import BISENET, PARSENET
from common.parsing.features import EmbedderFile
from common.parsing.named_networks import named_network
from common.parsing.network import check_whole
from common.parsing.parser import INT8, ParserFile, effective_precision
from common.parsing.quantize import int8_file
from common.pipeline_config import Parse, Weights
from common.weights import KNOWN, file_sha256, find


def find_parser(parse: Parse, weights: Weights) -> ParserFile:
    """The configured parser; known weights are fetched if need be, and checked.

    Where this machine computes in int8, the file for that is made if it is missing, before all workers do.

    Raises:
        UserError: a file is missing, unknown or without a class map, or the precision is not the parser's.
    """
    kind = parse.parser
    if parse.precision == INT8 and kind != "bisenet":
        raise UserError(
            f"parse.precision=int8 does not go with parse.parser={kind}; set the precision to auto"
        )
    if kind in KNOWN:
        path, sha256 = find(kind, weights), KNOWN[kind].sha256
        class_map = BISENET if kind == "bisenet" else PARSENET
    else:
        if weights.parser is None:
            raise UserError(f"parse.parser={kind} needs a file; name it with weights.parser")
        path = _existing(weights.parser, "weights.parser")
        sha256, class_map = file_sha256(path), read_format_beside(path, ClassMap, "class map")
    size = class_map.size or parse.size
    if effective_precision(kind, parse.precision, hardware()) == INT8:
        int8_file(path, sha256, size)
    embedders = tuple(find_embedder(name, weights) for name in parse.features_from)
    if len({each.name for each in embedders}) < len(embedders):
        raise UserError(f"parse.features_from={parse.features_from}: two networks of one name; rename a file")
    return ParserFile(kind, path, sha256, class_map, size, parse.precision, embedders)


def find_embedder(name: str, weights: Weights) -> EmbedderFile:
    """A network that ``parse.features_from`` names; the name of its features is that of the file.

    Raises:
        UserError: the file is missing, or has no description beside it, or another one than is needed.
    """
    if name in NAMED:
        return named_network(name, weights)
    path = _existing(name, "parse.features_from")
    return EmbedderFile(
        path.stem, path, file_sha256(path), read_format_beside(path, FeatureFormat, "description")
    )


def _existing(name: str, setting: str) -> Path:
    path = Path(name).absolute()
    if not path.is_file():
        raise UserError(f"{path} does not exist; {setting} names it")
    if path.suffix == ".onnx":
        check_whole(path)
    return path
