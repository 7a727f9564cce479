"""The labelling page: faces of a batch, or suspected labels, to be labelled by keyboard without a server.

The faces to label next are random ones of different people, on which a region probe guesses. Typical faces
first and uncertain faces first taught no more than random ones, see docs/labels.md.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from common import manifest
from common.config import Config
from common.errors import UserError
from common.files import write_text
from common.layout import Layout
from common.page.formats import count as counted
from common.page.images import image_uri
from common.page.render import render
from common.pipeline_config import Stream
from common.sampling import evenly_spaced
from training.data.loader import load
from training.data.sampler import sequential_batches
from training.data.samples import Samples, read_samples
from training.methods.method import BATCH_SIZE, regions_of
from training.methods.region_probe import fit_region_probe
from training.models.classifier import sample_probabilities

PAGE: Final = "labels.html"
SIDE: Final = 256  # Pixels of a face on the page
MOST: Final = 3000  # At most so many labelled faces teach the guesses; evenly spaced over the set


def write_page(
    file: Path,
    layout: Layout,
    faces: Samples,
    stream: Stream,
    headline: str,
    guesses: NDArray[np.float64] | None = None,
    pairs: Sequence[tuple[int, int]] | None = None,
) -> None:
    """Write a page that downloads all labels of the shards, with what was labelled on it, as a table.

    Args:
        faces: what is labelled, in this order.
        guesses: probabilities, float64 (N, A), that are shown beside each face; NaN for none.
        pairs: the face and the attribute, positions, of labels that are to be checked, in this order; None:
            each attribute of each face.
    """
    sources = sources_of(layout)
    entries: list[dict[str, Any]] = []
    for batch in load(faces, sequential_batches(faces, 64), {"jpg"}, 1, stream):
        pixels = batch.images.permute(0, 2, 3, 1).numpy()
        for position, image in zip(batch.indices.tolist(), pixels, strict=True):
            uri = image_uri(image, "jpeg", min(SIDE, len(image)))
            entry: dict[str, Any] = {"path": sources[faces.keys[position]], "image": uri}
            if guesses is not None:
                known = guesses[position]
                entry["guess"] = [None if np.isnan(each) else round(each, 4) for each in known.tolist()]
            entry["given"] = [None if each < 0 else each for each in faces.attributes[position].tolist()]
            entries.append(entry)
    samples = manifest.read(layout.samples)
    columns = ["identity"] if samples.table["identity"].null_count < len(samples.table) else []
    # Where none but train is there, splits are left out, so that labels of more faces do not change them.
    columns += ["split"] if {"val", "test"} & set(samples.table["split"].to_pylist()) else []
    values = [samples.table[name].to_pylist() for name in ("source", *columns, *samples.attributes)]
    rows: dict[str, list[Any]] = {}
    for row in zip(*values, strict=True):
        if any(label is not None for label in row[1 + len(columns) :]):
            rows.setdefault(row[0], list(row))
    data = {"attributes": list(faces.attribute_names), "faces": entries, "pairs": pairs}
    data |= {"columns": columns, "rows": list(rows.values())}
    data["key"] = "labels " + hashlib.sha256(json.dumps(data).encode()).hexdigest()
    lede = (
        "Press Y, N or U for yes, no or unsure. What you label is kept in this browser until you download "
        "it; nothing leaves this page."
    )
    templates = Path(__file__).with_name("templates")
    page = render(templates, "labels.html.j2", title="Labels", headline=headline, lede=lede, data=data)
    write_text(file, page)


def sources_of(layout: Layout) -> dict[str, str]:
    """The path of each sample's photo, by key."""
    table = manifest.read(layout.samples, ["key", "source"]).table
    return dict(zip(table["key"].to_pylist(), table["source"].to_pylist(), strict=True))


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
