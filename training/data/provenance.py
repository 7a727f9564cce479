"""The provenance of a classifier: which data it was trained on, and how the faces were aligned."""

from typing import Any

from common import manifest
from common.alignment import recipe
from common.config import Config
from common.freshness import code_version
from common.layout import Layout
from training.data.landmarks import typical_landmarks
from training.data.samples import Samples


def provenance(layout: Layout, samples: Samples, config: Config) -> dict[str, Any]:
    """The data set's name, its samples by split, how its faces were aligned, and the code's version.

    ``landmarks`` are those of the first of `samples`, see `typical_landmarks`. If the manifest does not
    record the alignment, that of `config` is assumed; detector scores in the manifest then tell whether
    faces were detected.
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
        "code": code_version(),
    }
