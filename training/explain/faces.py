"""The faces that an explanation is averaged over: of shards with labels, or of photos with predictions."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.layout import Layout
from common.photo import Refused
from common.pipeline_config import Stream
from common.progress import progress
from common.sampling import evenly_spaced
from training.data.loader import Batch, load
from training.data.sampler import sequential_batches
from training.data.samples import read_samples
from training.models.classifier import Classifier
from training.models.stored_features import require_members
from training.predict.predict import photos_in
from training.predict.predictor import Predictor

Faces = Callable[[frozenset[str]], Iterator[tuple[Batch, NDArray[np.int8]]]]
"""From members of samples to batches of these, and labels, (B, A), 0 or 1, -1 where unknown."""


def faces_of_shards(
    classifier: Classifier, layout: Layout, count: int, batch_size: int, stream: Stream
) -> Faces:
    """At most `count` test faces, evenly spaced, `batch_size` at a time, with their true labels.

    Raises:
        UserError: no test face has labels of the classifier's attributes.
    """
    samples = read_samples(layout, ("test",)).labelled()
    if not len(samples) or tuple(samples.attribute_names) != classifier.attributes:
        raise UserError(f"{layout.shards} has no test face with labels for the attributes of the classifier")
    samples = samples.take(evenly_spaced(count, len(samples)))

    def batches(members: frozenset[str]) -> Iterator[tuple[Batch, NDArray[np.int8]]]:
        require_members(samples, members)
        bar = progress("explain", len(samples), "faces")
        for batch in load(samples, sequential_batches(samples, batch_size), members, 1, stream):
            yield batch, samples.attributes[batch.indices.numpy()]
            bar.update(len(batch.indices))
        bar.close()

    return batches


def faces_of_photos(predictor: Predictor, paths: Sequence[Path], count: int) -> Faces:
    """The faces of at most `count` photos; an attribute that is predicted to be present has label 1."""
    photos = photos_in(list(paths))[0]
    photos = [photos[position] for position in evenly_spaced(count, len(photos))]

    def batches(members: frozenset[str]) -> Iterator[tuple[Batch, NDArray[np.int8]]]:
        bar, seen = progress("explain", len(photos), "photos"), False
        for photo in photos:
            with suppress(Refused):
                faces = [] if photo.refused else predictor(photo.file)
                names = predictor.classifier.attributes
                labels = np.array([[name in face.present for name in names] for face in faces], np.int8)
                if faces:
                    yield predictor.batch(np.stack([face.image for face in faces]), members), labels
                    seen = True
            bar.update(1)
        bar.close()
        if not seen:
            raise UserError(f"{', '.join(map(str, paths))}: no photo with a face to explain")

    return batches
