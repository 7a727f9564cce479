"""Predictions for faces that lie in shards already, which need no detector, and which probes can make."""

from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from common import manifest
from common.config import Config
from common.errors import UserError
from common.files import replacing
from common.layout import SPLITS, Layout
from training.data.samples import read_samples
from training.engine.device import announce_training
from training.evaluate.probabilities import ShardPredictor
from training.predict.thresholds import read_thresholds

FORMATS: Final = (".csv", ".parquet")


def predict_stored(
    config: Config, layout: Layout, checkpoint: Path, thresholds: Path | None, output: Path
) -> None:
    """Write a row per sample of the shards: key, source, the attributes present, and the probabilities.

    Args:
        config: batch size and precision of the evaluation, and the cache of remote shards.
        layout: the shards.
        checkpoint: a classifier or a probe.
        thresholds: see `read_thresholds`.
        output: .csv (attributes that are present joined with ``;``) or .parquet.

    Raises:
        UserError: a file is missing or does not fit, the shards are empty, or they lack a probe's features.
    """
    if output.suffix.lower() not in FORMATS:
        raise UserError(f"{output}: the name must end in one of {', '.join(FORMATS)}, the format")
    predictor = ShardPredictor(checkpoint, config.evaluate, config.stream)
    if predictor.network:
        announce_training("predict", config.evaluate.precision)
    cuts, thresholds_from = read_thresholds(predictor.attributes, checkpoint, thresholds)
    samples = read_samples(layout, SPLITS, config.stream.folder)
    if not len(samples):
        raise UserError(f"{layout.shards}: no faces")
    probabilities = predictor(samples, "predict")
    rows = manifest.read(layout.samples, ["key", "source"]).table
    sources = pa.table({"key": list(samples.keys), "row": np.arange(len(samples))}).join(rows, "key")
    table = _table(sources.sort_by("row"), probabilities, cuts)
    _write(output, table)
    print(f"predict: {len(samples):,} faces of {layout.shards}; thresholds {thresholds_from}; {output}")


def _table(sources: pa.Table, probabilities: NDArray[np.float64], cuts: dict[str, float]) -> pa.Table:
    names = np.array(list(cuts))
    present = probabilities >= np.array(list(cuts.values()))
    ends = np.concatenate(([0], present.sum(axis=1).cumsum()))
    lists = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(names[np.nonzero(present)[1]]))
    columns = {"key": sources["key"], "source": sources["source"], "present": lists}
    values = {name: probabilities[:, column] for column, name in enumerate(cuts)}
    return pa.table({**columns, **values})


def _write(output: Path, table: pa.Table) -> None:
    with replacing(output) as temporary:
        if output.suffix.lower() == ".parquet":
            pq.write_table(table, temporary, compression="zstd")
        else:
            joined = pc.binary_join(table["present"], ";")
            position = table.schema.get_field_index("present")
            pa_csv.write_csv(table.set_column(position, "present", joined), temporary)
