"""What a classifier's file says of the data that it learnt from."""

from typing import Any

from common import manifest
from common.alignment import recipe
from common.config import Config
from common.layout import Layout
from common.version import code_version


def facts_of(layout: Layout, config: Config) -> dict[str, Any]:
    """The data set's name and number of faces by split, how its faces were aligned, and the code's version.

    Shards whose manifest does not say how they were aligned are taken to be made with the align
    section of `config`; whether their faces were detected shows in their scores.
    """
    found = manifest.read(layout.require_samples(), columns=["split", "box_score"])
    splits = found.table["split"].to_pylist()
    text = found.metadata.get(recipe.FACT)
    if text is None:
        detected = found.table["box_score"].null_count < found.table.num_rows
        made = recipe.Recipe.of(config.align, config.ingest, detected)
    else:
        made = recipe.Recipe.read(text, str(layout.samples))
    return {
        "dataset": found.metadata["dataset"],
        "faces": {split: splits.count(split) for split in sorted(set(splits))},
        "alignment": made.model_dump(mode="json"),
        "code": code_version(),
    }
