"""Predictions for faces that lie in shards already, which need no detector; by a classifier of any kind."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from common import manifest
from common.config import Config
from common.errors import UserError
from common.layout import SPLITS, Layout
from training.data.samples import read_samples
from training.engine.device import announce_training, default_device
from training.evaluate.thresholds import DEFAULT, read_thresholds
from training.models.classifier import load_classifier
from training.models.inference import sample_probabilities
from training.predict.output import check_format, write_table


def predict_stored(
    config: Config, layout: Layout, checkpoint: Path, thresholds: Path | None, output: Path
) -> None:
    """Write a row per sample of the shards: key, source, the attributes present, and the probabilities.

    Args:
        config: batch size and precision of the evaluation, and the cache of remote shards.
        layout: the shards.
        checkpoint: a classifier of any kind.
        thresholds: see `read_thresholds`; None: 0.5 for all.
        output: a file with one of the suffixes `training.predict.output.FORMATS`.

    Raises:
        UserError: a file is missing or does not fit, the shards are empty, or they lack what is read.
    """
    check_format(output)
    settings, classifier = config.evaluate, load_classifier(checkpoint)
    known = {} if thresholds is None else read_thresholds(thresholds, classifier)
    if classifier.network is not None:
        announce_training("predict", config.trainer.precision)
    classifier.configure(default_device(), config.trainer.precision, settings.mirrored)
    samples = read_samples(layout, SPLITS, config.stream.folder)
    if not len(samples):
        raise UserError(f"{layout.shards}: no faces")
    probabilities = sample_probabilities(classifier, samples, config.stream, settings.batch_size, "predict")
    names = np.array(classifier.attributes)
    present = probabilities >= np.array([known.get(name, DEFAULT) for name in classifier.attributes])
    ends = np.concatenate(([0], present.sum(axis=1).cumsum()))
    lists = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(names[np.nonzero(present)[1]]))
    rows = manifest.read(layout.samples, ["key", "source"]).table
    sources = pa.table({"key": list(samples.keys), "row": np.arange(len(samples))}).join(rows, "key")
    columns = {"key": list(samples.keys), "source": sources.sort_by("row")["source"], "present": lists}
    write_table(output, pa.table({**columns, **dict(zip(names, probabilities.T, strict=True))}))
    print(f"predict: {len(samples):,} faces of {layout.shards}; thresholds {thresholds or DEFAULT}; {output}")
