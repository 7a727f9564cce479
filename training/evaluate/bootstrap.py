"""Confidence intervals by the bootstrap over identities.

A resample draws identities with replacement rather than faces, because photos of one person are not
independent. All metrics of all runs are computed on the same resamples, so differences are paired.
Row 0 of all that is computed on resamples is the estimate, of which every face is a part once.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def resample_identities(identities: Sequence[str | None], resamples: int, seed: int) -> NDArray[np.float64]:
    """How often each face occurs in each resample; a face of unknown identity is an identity of its own.

    Returns:
        float64 (1 + R, N) of whole numbers, ones in row 0; equal arguments give equal numbers.
    """
    names = [f"\0{i}" if identity is None else identity for i, identity in enumerate(identities)]
    people, person = np.unique(np.array(names, dtype=np.str_), return_inverse=True)
    count = len(people)
    times = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples)
    return np.vstack([np.ones(len(names)), times[:, person]])


def confidence_interval(values: NDArray[np.float64], bounds: tuple[float, float]) -> list[float] | None:
    """The 95 % confidence interval [low, high] of an estimate.

    The 2.5th and 97.5th percentile of the resamples, shifted by the difference between the estimate and
    the mean of the resamples. A resample repeats faces, which alone raises average precision and
    calibration error, so plain percentiles would leave the estimate out.

    Args:
        values: float64 (1 + R,), the estimate and the value on every resample; NaN is left out.
        bounds: the least and greatest possible value, to which the interval is clipped.

    Returns:
        Both ends rounded to four decimals; None without an estimate or without any other value.
    """
    known = values[1:][~np.isnan(values[1:])]
    if np.isnan(values[0]) or not len(known):
        return None
    ends = np.percentile(known, [2.5, 97.5]) - known.mean() + values[0]
    return [round(float(end), 4) for end in ends.clip(*bounds)]
