"""The provenance of a classifier: which data it was trained on, and how the faces were aligned."""

from typing import Any

from common import manifest
from common.alignment import recipe
from common.layout import Layout
from common.pipeline_config import Align, Ingest
from common.version import code_version


def provenance(layout: Layout, align: Align, ingest: Ingest) -> dict[str, Any]:
    """The data set's name, its samples by split, how its faces were aligned, and the code's version.

    If the manifest does not record the alignment, `align` and `ingest` are assumed; detector scores in
    the manifest then tell whether faces were detected.
    """
    samples = manifest.read(layout.require_samples(), columns=["split", "box_score"])
    counts = {count["values"]: count["counts"] for count in samples.table["split"].value_counts().to_pylist()}
    text = samples.metadata.get(recipe.METADATA_KEY)
    if text is None:
        detected = samples.table["box_score"].null_count < samples.table.num_rows
        alignment = recipe.Recipe.of(align, ingest, detected)
    else:
        alignment = recipe.Recipe.read(text, str(layout.samples))
    return {
        "dataset": samples.metadata["dataset"],
        "faces": dict(sorted(counts.items())),
        "alignment": alignment.model_dump(mode="json"),
        "code": code_version(),
    }
