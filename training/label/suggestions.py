"""Which faces to label next: random ones of different people, on which a region probe guesses.

Typical faces first and uncertain faces first taught no more than random ones, see docs/labels.md.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from common.config import Config
from common.errors import UserError
from common.layout import Layout
from common.page.formats import count as counted
from common.sampling import evenly_spaced
from training.data.samples import read_samples
from training.label.page import sources_of, write_page
from training.methods.method import BATCH_SIZE, regions_of
from training.methods.region_probe import fit_region_probe
from training.models.classifier import sample_probabilities

MOST: Final = 3000
"""At most so many labelled faces teach the guesses; evenly spaced over the set."""


def write_suggestions(config: Config, layout: Layout, file: Path, count: int) -> list[str]:
    """Write the labelling page of the faces to label next, with a region probe's guesses.

    Args:
        config: the regions of attributes, and the cache of remote shards.
        count: of faces, at most.

    Returns:
        The paths of these photos, in the order of the page. If every face has a label, they are to be
        labelled with a further attribute.

    Raises:
        UserError: there are no such faces, or some have labels and the shards hold no features.
    """
    every, stream = read_samples(layout, ("train", "unlabelled"), config.stream.folder), config.stream
    if not len(every):
        raise UserError(f"{layout.shards}: no faces to train on")
    known = (every.attributes >= 0).any(axis=1)
    further = bool(known.all())
    labelled, free = np.flatnonzero(known & ~further), np.flatnonzero(~known | further)
    order = drawn([every.identities[face] for face in free.tolist()], len(labelled), count)
    faces, guesses = every.take(free[order]), None
    if len(labelled) > 1:
        train = every.take(labelled[evenly_spaced(MOST, len(labelled))])
        probe, _ = fit_region_probe(train, every, stream, regions_of(config.finetune))
        guesses = sample_probabilities(probe, faces, stream, BATCH_SIZE, "guesses")
    headline = f"{counted(len(faces), 'face')} to label {'a further attribute on' if further else 'next'}"
    write_page(file, layout, faces, stream, f"{headline}, drawn at random", guesses)
    sources = sources_of(layout)
    return [sources[key] for key in faces.keys]


def drawn(people: Sequence[str | None], seed: int, count: int) -> list[int]:
    """At most `count` random positions in `people`, nobody twice; None is somebody with one face."""
    first: dict[str, int] = {}
    for face in np.random.default_rng(seed).permutation(len(people)).tolist():
        first.setdefault(people[face] or f"\0{face}", face)
    return list(first.values())[:count]
