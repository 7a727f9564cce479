"""Out-of-sample predictions of labelled faces: each by a region probe that saw no photo of that person."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from common.progress import progress
from training.methods.region_probe import StandardisedFeatures, fit_on_features
from training.models.probe import Regions

FEWEST: Final = 20
"""With fewer labelled faces, predictions of them say too little."""

FOLDS: Final = 10
FEWER_FOLDS: Final = 5
FEW: Final = 500
"""Beyond so many labelled faces there are `FEWER_FOLDS`."""


def left_out_logits(
    features: StandardisedFeatures,
    labels: NDArray[np.int8],
    names: tuple[str, ...],
    identities: Sequence[str | None],
    regions: Regions,
    most: int | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Logits of labelled faces that a fit left out, with all photos of the same person.

    Args:
        features, labels, names, regions: see `fit_on_features`.
        identities: of the N faces, None where unknown.
        most: leave out only so many folds that they hold so many faces; None: all.

    Returns:
        Positions of these faces, ascending, int64 (L,), and their logits, float64 (L, A).
    """
    fold = folds_of(identities)
    sizes = np.bincount(fold).cumsum()
    used = len(sizes) if most is None else min(int((sizes < most).sum()) + 1, len(sizes))
    logits = np.zeros(labels.shape)
    bar = progress("left out", used, "folds")
    for each in range(used):
        rest, held = np.flatnonzero(fold != each), np.flatnonzero(fold == each)
        kept = replace(features, values=features.values[rest])
        probe, _ = fit_on_features(kept, labels[rest], names, regions)
        logits[held] = probe.logits_of(features.values[held].astype(np.float64))
        bar.update(1)
    bar.close()
    seen = np.flatnonzero(fold < used)
    return seen, logits[seen]


def folds_of(identities: Sequence[str | None]) -> NDArray[np.int64]:
    """The fold of each face, int64 (N,), 0 to the number of folds - 1: equal for all faces of a person.

    Args:
        identities: of two faces or more; a face of unknown identity is a person of its own.
    """
    names = [f"\0{i}" if identity is None else identity for i, identity in enumerate(identities)]
    people, person, faces = np.unique(np.array(names, np.str_), return_inverse=True, return_counts=True)
    count = min(FOLDS if len(names) <= FEW else FEWER_FOLDS, len(people))
    order = np.random.default_rng(0).permutation(len(people))
    fold_of_person, sizes = np.zeros(len(people), np.int64), np.zeros(count)
    for each in order[np.argsort(-faces[order], kind="stable")]:  # the largest first, to the smallest fold
        fold_of_person[each] = smallest = sizes.argmin()
        sizes[smallest] += faces[each]
    return fold_of_person[person]
