"""Which faces to label next: at first those after whose labels the predictions of all faces vary least.

The regression's kernel gives the posterior variance of each face's prediction, whatever the labels are. Each
step takes the face that reduces the sum over all faces most (transductive experimental design, Yu, Bi and
Tresp, "Active Learning via Transductive Experimental Design", ICML 2006): typical faces first, spread over
the set, and none like those that are labelled. Beyond the first labels random faces teach more, see
docs/labels.md.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from common.config import Config
from common.errors import UserError
from common.layout import Layout
from common.page.formats import count as counted
from common.sampling import evenly_spaced
from training.data.samples import read_samples
from training.label.page import sources_of, write_page
from training.methods.block_weights import prior_weights
from training.methods.method import regions_of
from training.methods.region_probe import StandardisedFeatures, fit_on_features, read_standardised
from training.models.probe import Kernels

MOST: Final = 3000
"""At most so many faces with labels, and so many without, are compared; evenly spaced over the set."""

FEW: Final = 84
"""With so many labelled faces or more, the next ones are drawn at random."""

NOISE: Final = 1.0
"""Variance of a label beside that of the kernel, which is 1 for a face with itself."""


def write_suggestions(config: Config, layout: Layout, file: Path, count: int) -> list[str]:
    """Write the labelling page of the faces to label next, with a region probe's guesses.

    Args:
        config: the regions of attributes, and the cache of remote shards.
        layout: the shards.
        file: the page.
        count: of faces, at most.

    Returns:
        The paths of these photos, in the order of the page. If every face has a label, they are those that
        a further attribute would best be labelled on.

    Raises:
        UserError: there are no such faces, or the shards hold no features.
    """
    every = read_samples(layout, ("train", "unlabelled"), config.stream.folder)
    known = (every.attributes >= 0).any(axis=1)
    if not len(every):
        raise UserError(f"{layout.shards}: no faces to train on")
    further = bool(known.all())
    labelled, free = (np.flatnonzero(each) for each in (known & ~further, ~known | further))
    labelled, free = (each[evenly_spaced(MOST, len(each))] for each in (labelled, free))
    features = read_standardised(every.take(np.concatenate([labelled, free])), every, config.stream)
    order = suggested(features, len(labelled), [every.identities[face] for face in free.tolist()], count)
    guesses = None
    if len(labelled) > 1:
        of_labelled = replace(features, values=features.values[: len(labelled)])
        labels, names = every.attributes[labelled], every.attribute_names
        probe, _ = fit_on_features(of_labelled, labels, names, regions_of(config.finetune))
        chosen = features.values[len(labelled) :][order].astype(np.float64)
        guesses = torch.from_numpy(probe.logits_of(chosen)).sigmoid().numpy()
    faces = every.take(free[order])
    headline = f"{counted(len(faces), 'face')} to label {'a further attribute on' if further else 'next'}"
    write_page(file, layout, faces, config.stream, headline, guesses)
    sources = sources_of(layout)
    return [sources[key] for key in faces.keys]


def suggested(
    features: StandardisedFeatures, labelled: int, people: Sequence[str | None], count: int
) -> list[int]:
    """Faces to label next, as positions among those without a label, in the order of their use.

    Args:
        features: of N faces, those with labels first.
        labelled: how many have labels.
        people: identities of the others, None where unknown; nobody is taken twice.
        count: of faces, at most.
    """
    if labelled < FEW:
        return informative(similarities(features), labelled, people, count)
    first: dict[str, int] = {}
    for face in np.random.default_rng(labelled).permutation(len(people)).tolist():
        first.setdefault(people[face] or f"\0{face}", face)
    return list(first.values())[:count]


def similarities(features: StandardisedFeatures) -> NDArray[np.float64]:
    """The kernel of the region probe for an attribute of no region in particular, float64 (N, N)."""
    values, weights = torch.from_numpy(features.values), prior_weights(features.parts, [None])
    return Kernels(values, values, [part[2:] for part in features.parts], weights)(0).numpy()


def informative(
    similarity: NDArray[np.float64], labelled: int, people: Sequence[str | None], count: int
) -> list[int]:
    """As `suggested`, the most informative first.

    Args:
        similarity: of N faces to each other, float64 (N, N), those with labels first.
        labelled, people, count: see `suggested`.
    """
    known = similarity[:, :labelled]
    system = known[:labelled] + NOISE * np.eye(labelled)
    covariance = similarity - known @ np.linalg.solve(system, known.T) if labelled else similarity.copy()
    free, order = np.ones(len(people), bool), list[int]()
    while len(order) < count and free.any():
        of_free = covariance[:, labelled:]
        gains = np.square(of_free).sum(axis=0) / (of_free[labelled:].diagonal() + NOISE)
        best = int(np.where(free, gains, -1.0).argmax())
        column = of_free[:, best].copy()
        covariance -= np.outer(column, column / (column[labelled + best] + NOISE))
        order.append(best)
        free[best] = False
        if people[best] is not None:
            free &= np.array([person != people[best] for person in people])
    return order
