"""Nested subsets of the labelled faces: 1 % is part of 2 %, per seed."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from training.stream import Faces


def labelled_subset(faces: Faces, share: float, seed: int) -> NDArray[np.int64]:
    """Positions of the first `share` of faces in an order drawn from the keys and the seed.

    The order does not depend on how the faces lie in shards. At least one face is taken.
    """
    ranks = [hashlib.sha256(f"{seed}:{key}".encode()).digest() for key in faces.keys]
    order = np.array(sorted(range(len(faces)), key=ranks.__getitem__), np.int64)
    return np.sort(order[: max(1, round(share * len(faces)))])
