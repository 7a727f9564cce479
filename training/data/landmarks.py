"""Where the faces of a data set have their landmarks, so that other photos can be aligned alike."""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from common.alignment.detector import detect_faces, load_detector, one_thread
from common.alignment.recipe import Recipe
from common.alignment.search import side
from common.errors import UserError
from common.pipeline_config import Stream, Weights
from common.weights import find
from training.data.loader import load
from training.data.sampler import sequential_batches
from training.data.samples import Samples

FACES: Final = 64
"""How many faces are looked at, at most."""


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
