"""Which positions of a long sequence stand for all of it."""

import numpy as np
from numpy.typing import NDArray


def evenly_spaced(count: int, total: int) -> NDArray[np.int64]:
    """At most `count` distinct positions of 0..`total` - 1, evenly spaced and ascending, int64.

    The first position is always 0, and with two or more the last is `total` - 1.
    """
    return np.linspace(0, total - 1, min(count, total)).round().astype(np.int64)
