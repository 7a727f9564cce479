"""Faces to compare exported files on, and the description of labels beside them."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from common.config import Config
from common.errors import UserError
from common.images import Refused
from common.layout import Layout
from training.data.loader import load
from training.data.sampler import sequential_batches
from training.data.samples import read_samples
from training.predict.predict import photos_in
from training.predict.predictor import Predictor

FACES: Final = 64
"""On at most so many faces the exported files are compared."""


def faces_of_shards(shards: str, config: Config) -> NDArray[np.uint8]:
    """The first test faces of finished shards, or others if there are none, at most `FACES`.

    Returns:
        uint8 (N, S, S, 3).

    Raises:
        UserError: there are no shards, or they hold no samples.
    """
    layout = Layout.at(shards)
    samples = read_samples(layout, ("test",))
    if not len(samples) and not len(samples := read_samples(layout, ("train", "val", "unlabelled"))):
        raise UserError(f"{shards}: the shards hold no samples; name others with --shards")
    samples = samples.take(np.arange(min(FACES, len(samples))))
    (batch,) = load(samples, sequential_batches(samples, FACES), {"jpg"}, 0, config.stream)
    return batch.images.permute(0, 2, 3, 1).numpy()


def faces_of_photos(predictor: Predictor, paths: Sequence[Path]) -> NDArray[np.uint8]:
    """The aligned faces of photos, at most `FACES`: uint8 (N, S, S, 3).

    Raises:
        UserError: no photo has a face.
    """
    images: list[NDArray[np.uint8]] = []
    for photo in photos_in(list(paths))[0]:
        with suppress(Refused):
            if not photo.refused and len(images) < FACES:
                images += [face.image for face in predictor(photo.file)]
    if not images:
        raise UserError(
            f"{', '.join(map(str, paths))}: no photo with a face to compare the exported files on"
        )
    return np.stack(images[:FACES])


def labels(predictor: Predictor) -> dict[str, Any]:
    """``labels.json``: attributes in the order of the probabilities, thresholds, and how to make a face."""
    side, classifier = predictor.recipe.align.size, predictor.classifier
    thresholds = (classifier.thresholds or {}).items()
    return {
        "attributes": [{"name": name, "threshold": value} for name, value in thresholds],
        "thresholds_from": classifier.thresholds_from,
        "classifier": classifier.identity,
        "input": {"name": "faces", "type": "uint8", "shape": ["batch", side, side, 3], "channels": "RGB"},
        **{name: value for name, value in classifier.metadata.items() if name != "config"},
    }
