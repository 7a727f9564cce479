"""Exported files against the classifier that they come from: faces, probabilities, and times."""

import statistics
import timeit
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from common.config import Config
from common.errors import UserError
from common.layout import Layout
from common.photo import Refused
from training.data.loader import load
from training.data.sampler import sequential_batches
from training.data.samples import read_samples
from training.predict.predict import photos_in
from training.predict.predictor import Predictor

FACES: Final = 64  # On at most so many faces the exported files are compared
CALLS: Final = 7  # Timed calls, of which the median is reported

# Largest difference of a probability between the classifier and an exported file. Networks differ by less
# than 1e-4; a region probe by up to 2e-3 on faces whose labels it knows, since their distance of 0 is 1e-6 in
# float32 and its kernel is steep there.
TOLERANCE: Final = 3e-3

# From aligned faces, uint8 (B, S, S, 3), to probabilities, (B, A).
Probabilities = Callable[[NDArray[np.uint8]], NDArray[np.floating]]


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
        names = ", ".join(map(str, paths))
        raise UserError(f"{names}: no photo with a face to compare the exported files on")
    return np.stack(images[:FACES])


def compare(
    forms: Mapping[str, Probabilities], faces: NDArray[np.uint8], batches: Sequence[int], output: Path
) -> list[list[str]]:
    """A table of forms of one classifier, the first of which is the classifier itself.

    Args:
        forms: by the name of their file in `output`.
        faces: uint8 (N, S, S, 3), on which they are compared.
        batches: numbers of faces per call whose time is measured.

    Returns:
        Headings, then of each form its file, size in 10^6 bytes, largest difference of a probability from
        the classifier's, and median milliseconds per face with each number of faces.

    Raises:
        UserError: a form gives other probabilities.
    """
    rows = [["file", "MB", "largest difference", *(f"ms per face, {size} per call" for size in batches)]]
    reference = next(iter(forms.values()))(faces)
    for name, form in forms.items():
        difference = float(np.abs(form(faces) - reference).max())
        if not difference <= TOLERANCE:
            raise UserError(
                f"{output / name}: its probabilities differ by up to {difference:.2g} from the classifier's; "
                "do not use it, and report the versions of torch, onnx and onnxruntime"
            )
        size = f"{(output / name).stat().st_size / 1e6:.2f}" if (output / name).is_file() else "-"
        times = (_milliseconds(form, faces, each) for each in batches)
        rows.append([name, size, f"{difference:.1e}", *times])
    return rows


def _milliseconds(form: Probabilities, faces: NDArray[np.uint8], batch: int) -> str:
    given = np.resize(faces, (batch, *faces.shape[1:]))
    seconds = timeit.repeat(lambda: form(given), number=1, repeat=CALLS)
    return f"{1000 * statistics.median(seconds) / batch:.2f}"
