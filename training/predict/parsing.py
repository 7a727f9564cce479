"""Parsed faces of photos, for classifiers that read more than pictures.

The parser is imported when it is needed: classifiers of pictures need none.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from common.cell_counts import GRID, cell_class_counts
from common.config import Config
from common.errors import UserError

if TYPE_CHECKING:
    from common.parsing.parser import FaceParser, ParserFile


def find_parser_of(metadata: Mapping[str, Any], config: Config) -> "ParserFile":
    """The parser that made the masks and features of the faces that a classifier was fitted on.

    It computes in int8 or float32 if those did; of 16-bit formats it takes this machine's own.

    Args:
        metadata: of the classifier, whose ``parsing`` `training.data.provenance.parsing` made.
        config: names files of one's own in ``weights.parser`` and ``parse.features_from``, where they do not
            lie where they lay when the classifier was fitted; and the cache of weights.

    Raises:
        UserError: the classifier does not say which, or its files are missing or others.
    """
    from common.parsing.class_map import NAMED
    from common.parsing.find_parser import find_parser

    parsing = metadata.get("parsing")
    if parsing is None:
        raise UserError(
            "the classifier does not say how faces were parsed; fit it again, or predict faces in shards "
            "with --shards"
        )
    kind, networks = parsing["parser"], parsing["networks"]
    files = {name: name for name in NAMED}
    files |= {Path(file).stem: file for file in (*parsing["features_from"], *config.parse.features_from)}
    if unknown := [name for name in networks if name not in files]:
        raise UserError(
            f"the classifier reads features of {', '.join(unknown)}; list files with these names, besides "
            "their endings, in parse.features_from"
        )
    formats = {each.rpartition(", ")[2] for each in parsing["numerics"]}
    file = config.weights.parser
    if kind in ("onnx", "torchscript") and (file is None or config.parse.parser != kind):
        file = parsing["file"]
    precision = formats.pop() if formats in ({"int8"}, {"float32"}) else "auto"
    update = {"parser": kind, "size": parsing["size"], "precision": precision}
    settings = config.parse.model_copy(update={**update, "features_from": [files[name] for name in networks]})
    found = find_parser(settings, config.weights.model_copy(update={"parser": file}))
    wanted = [(found.path, found.sha256, parsing["sha256"], "weights.parser")]
    for each in found.embedders:
        wanted.append((each.path, each.sha256, networks[each.name], "parse.features_from"))
    for path, sha256, expected, setting in wanted:
        if sha256 != expected:
            raise UserError(
                f"{path}: SHA-256 is {sha256}, but the classifier reads what the file with {expected} "
                f"computes; name that file as {setting}"
            )
    return found


def parse_faces(faces: NDArray[np.uint8], parser: "FaceParser") -> dict[str, NDArray[Any]]:
    """The members of samples, by name and stacked, as the loader decodes them, of faces, (B, S, S, 3)."""
    from common.parsing.parser import faces_per_pass

    parts = [parser(each) for each in np.split(faces, range(faces_per_pass(), len(faces), faces_per_pass()))]
    masks = np.concatenate([mask for mask, _, _ in parts])
    counts = np.stack([cell_class_counts(mask, GRID) for mask in masks])
    features = {name: np.concatenate([each[name] for *_, each in parts]) for name in parts[0][2]}
    flat = {name: each.view(np.float16).reshape(len(faces), -1) for name, each in features.items()}
    return {"jpg": faces, "mask.png": masks, "parts.npy": counts, **flat}
