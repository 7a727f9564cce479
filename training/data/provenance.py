"""The provenance of a classifier: which data it was trained on, and how the faces were aligned and parsed."""

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from common import manifest
from common.alignment import recipe
from common.alignment.crops import side
from common.alignment.detector import detect_faces, load_detector, one_thread
from common.alignment.recipe import Recipe
from common.config import Config
from common.errors import UserError
from common.freshness import code_version
from common.layout import Layout
from common.members import decode_metadata
from common.pipeline_config import Stream, Weights
from common.shards import Extent, read_member
from common.tables import add_parquet, connect
from common.weights import find
from training.data.loader import load
from training.data.sampler import sequential_batches
from training.data.samples import Samples

FACES: Final = 64  # How many faces are looked at, at most


def provenance(layout: Layout, samples: Samples, config: Config) -> dict[str, Any]:
    """The data set's name, its samples by split, how faces were aligned and parsed, and the code's version.

    ``landmarks`` are those of the first of `samples`, see `typical_landmarks`; for ``parsing`` see `parsing`.
    If the manifest does not record the alignment, that of `config` is assumed; detector scores in the
    manifest then tell whether faces were detected.
    """
    table = manifest.read(layout.require_samples(), columns=["split", "box_score"])
    counts = {count["values"]: count["counts"] for count in table.table["split"].value_counts().to_pylist()}
    text = table.metadata.get(recipe.METADATA_KEY)
    if text is None:
        detected = table.table["box_score"].null_count < table.table.num_rows
        alignment = recipe.Recipe.of(config.align, config.ingest, detected)
    else:
        alignment = recipe.Recipe.read(text, str(layout.samples))
    return {
        "dataset": table.metadata["dataset"],
        "faces": dict(sorted(counts.items())),
        "alignment": alignment.model_dump(mode="json"),
        "landmarks": typical_landmarks(samples, alignment, config.weights, config.stream),
        "parsing": parsing(layout, config),
        "code": code_version(),
    }


def parsing(layout: Layout, config: Config) -> dict[str, Any]:
    """The parser that made the masks and features of the shards, for `find_parser_of`.

    ``parser``, ``size`` and ``sha256`` are its kind, the pixels of its input and the hash of its file, and
    ``networks`` are the hashes of the networks whose features are stored too, by name, as the first sample
    says; ``numerics`` is what they computed on and in. ``file`` and ``features_from`` are what `config` names
    as ``weights.parser`` and ``parse.features_from``: files for which to look first.
    """
    with connect() as database:
        add_parquet(database, "samples", layout.require_samples())
        columns = 'shard, "json.offset", "json.size"'
        first = f'SELECT {columns} FROM samples ORDER BY shard, "json.offset" LIMIT 1'
        shard, *extent = database.execute(first).fetchall()[0]
    sample = decode_metadata(read_member(layout.shards, shard, Extent(*extent)))
    numerics = manifest.read(layout.samples, []).metadata.get(manifest.NUMERICS, "")
    return {
        "parser": sample["parser"],
        "size": sample["parser_size"],
        "sha256": sample["parser_sha256"],
        "networks": sample.get("embedders", {}),
        "numerics": numerics.splitlines(),
        "file": config.weights.parser,
        "features_from": config.parse.features_from,
    }


def typical_landmarks(
    samples: Samples, recipe: Recipe, weights: Weights, stream: Stream
) -> list[list[float]] | None:
    """The median landmarks of the first faces of `samples`, as `FACE_TEMPLATE` in shares of the side.

    None where the pipeline detected the faces, which puts them at `FACE_TEMPLATE`; and where it did not, but
    no face is detected now or the detector's weights are missing, which a notice says.
    """
    if recipe.align.mode == "detect":
        return None
    samples = samples.take(np.arange(min(FACES, len(samples))))
    try:
        path = find(recipe.align.detector, weights)
    except UserError as error:
        print(f"finetune: prediction will align photos to facexlib's template, not to these faces: {error}")
        return None
    (batch,) = load(samples, sequential_batches(samples, FACES), {"jpg"}, 0, stream)
    with one_thread(), torch.random.fork_rng(devices=[]):
        detector = load_detector(recipe.align.detector, path)
        detected = [
            detect_faces(face, detector, recipe.align) for face in batch.images.permute(0, 2, 3, 1).numpy()
        ]
    landmarks = [max(faces, key=side).landmarks for faces in detected if faces]
    if not landmarks:
        print(
            "finetune: no face was detected in the aligned pictures; prediction will use facexlib's template"
        )
        return None
    median: NDArray[np.float64] = np.median(landmarks, axis=0) / recipe.align.size
    return [[round(float(value), 5) for value in point] for point in median]
