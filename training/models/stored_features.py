"""Features of faces from what the shards hold: the input of the probes, in blocks of columns."""

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from common.cell_counts import merge_cells
from common.classes import NUM_CLASSES
from common.errors import UserError
from common.members import FEATURE_CHANNELS, OF_CLASSES, feature_fields
from common.pipeline_config import Stream
from common.shards import read_member
from training.data.loader import Batch, load
from training.data.sampler import sequential_batches
from training.data.samples import Samples

Blocks = tuple[str, ...]  # Names of blocks of `BLOCKS`, in the order of the columns
# Features that are compared together: name of their block, class (-1: whole face), first and last + 1 column.
Part = tuple[str, int, int, int]
BATCH_SIZE: Final = 256
# Per region: mean of the three channels of CIELAB, of the row and of the column, the standard deviations of
# these five, and the square root of the area.
STATISTICS: Final = 11
AGAIN: Final = "parse the faces again by `python -m pipeline.parse --from OUT --output NEW`"
STRIDE: Final = 2  # The statistics read every second row and column


def whole_face_blocks(stored: Collection[str]) -> Blocks:
    """The blocks that describe the whole face, given the members that the shards hold: further networks'
    features where they do, then the parser's where they hold these, or else the areas of the classes.
    """
    of_parser = "pooled" if "pooled.npy" in stored else "areas"
    return ("embedding", of_parser) if "embedding.npy" in stored else (of_parser,)


def region_blocks(stored: Collection[str]) -> Blocks:
    """The blocks that describe the whole face, and those of its regions."""
    return (*whole_face_blocks(stored), "statistics")


def parts_of(samples: Samples, blocks: Blocks, stream: Stream) -> tuple[Part, ...]:
    """Parts of the features, of ``embedding`` under each network's name; for errors see `require_members`."""
    widths = list[tuple[str, int, int]]()
    for block in blocks:
        if block == "embedding":
            widths += _network_widths(samples)
        else:
            width = read_features(samples.take(np.arange(1)), (block,), stream).shape[1]
            of_class = {"pooled": FEATURE_CHANNELS, "statistics": STATISTICS}.get(block, 0)
            widths.append((block, width - NUM_CLASSES * of_class, of_class))
    return comparable_parts(widths)


def _network_widths(samples: Samples) -> list[tuple[str, int, int]]:
    """See `comparable_parts`, by the fields of the first face's ``embedding.npy``."""
    require_members(samples, frozenset({"embedding.npy"}))
    data = read_member(samples.root, samples.shards[0], samples.extent("embedding.npy", 0))
    fields = feature_fields(data)
    if "" in fields:
        raise UserError(
            f"{samples.root}: an older version wrote embedding.npy, which names no network; {AGAIN}"
        )
    of_classes = {name: values.shape[-1] for name, values in fields.items() if values.ndim == 2}
    return [
        (name, len(values), of_classes.get(name + OF_CLASSES, 0))
        for name, values in fields.items()
        if values.ndim == 1
    ]


def comparable_parts(widths: Iterable[tuple[str, int, int]]) -> tuple[Part, ...]:
    """The parts of features that lie side by side.

    The widths are each block's or network's name, and its columns of the whole face and then of each class.
    """
    parts, start = list[Part](), 0
    for name, of_whole, of_class in widths:
        for region in range(-1, NUM_CLASSES):
            columns = of_whole if region < 0 else of_class
            if columns:
                parts.append((name, region, start, start + columns))
            start += columns
    return tuple(parts)


def members_of(blocks: Blocks) -> frozenset[str]:
    """The members of a sample that some blocks are made from."""
    return frozenset().union(*(BLOCKS[block][0] for block in blocks))


def features_of(batch: Batch, blocks: Blocks) -> NDArray[np.float64]:
    """The features, float64 (N, D), of a batch with the members that `members_of` names."""
    return np.concatenate([BLOCKS[block][1](batch) for block in blocks], axis=1)


def read_features(
    samples: Samples,
    blocks: Blocks,
    stream: Stream,
    mean: NDArray[np.float64] | float = 0.0,
    scale: NDArray[np.float64] | float = 1.0,
    dtype: type[np.floating] = np.float32,
) -> NDArray[np.floating]:
    """Features of all samples, (N, D) of `dtype`, as (x - mean) * scale; errors: see `require_members`."""
    rows, read = np.empty((0, 0), dtype), 0
    for features in feature_batches(samples, blocks, stream):
        if not read:  # one array for all, since joining batches would need it twice
            rows = np.empty((len(samples), features.shape[1]), dtype)
        rows[read : read + len(features)] = (features - mean) * scale
        read += len(features)
    return rows


def feature_batches(samples: Samples, blocks: Blocks, stream: Stream) -> Iterator[NDArray[np.float64]]:
    """Features of all samples in order, float64 (B, D) at a time; for errors see `require_members`."""
    require_members(samples, members_of(blocks))
    batches = load(samples, sequential_batches(samples, BATCH_SIZE), members_of(blocks), 1, stream)
    return (features_of(batch, blocks) for batch in batches)


def require_members(samples: Samples, members: frozenset[str]) -> None:
    """A UserError, unless the shards hold what a classifier reads."""
    if missing := sorted(members - samples.extents.keys()):
        remedy = "" if missing != ["embedding.npy"] else " with --set parse.features_from=[NETWORK.onnx]"
        raise UserError(
            f"{samples.root} has no {', '.join(missing)}, which the classifier reads; {AGAIN}{remedy}"
        )


def region_statistics(batch: Batch) -> NDArray[np.float64]:
    """Colour, position and size of the face regions, from faces and their masks.

    Returns:
        float64 (N, 19 x 11), region by region. Colours are in 8-bit CIELAB, positions and areas in shares of
        the face; all are 0 for an absent region.
    """
    pixels = batch.images.permute(0, 2, 3, 1).numpy()[:, ::STRIDE, ::STRIDE]
    classes = batch.masks.numpy()[:, ::STRIDE, ::STRIDE]
    lab = np.stack([cv2.cvtColor(np.ascontiguousarray(each), cv2.COLOR_RGB2LAB) for each in pixels])
    faces, height, width = classes.shape
    bins = (np.arange(faces)[:, None, None] * NUM_CLASSES + classes).ravel()

    def by_region(values: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = np.bincount(bins, values.ravel(), faces * NUM_CLASSES)
        return sums.astype(np.float64).reshape(faces, NUM_CLASSES)

    count = by_region(np.ones(classes.shape))
    rows = np.broadcast_to(np.arange(height)[:, None] / height, classes.shape)
    columns = np.broadcast_to(np.arange(width) / width, classes.shape)
    means, deviations = [], []
    for values in (*np.moveaxis(lab.astype(np.float64), -1, 0), rows, columns):
        mean = by_region(values) / np.maximum(count, 1)
        variance = by_region(values**2) / np.maximum(count, 1) - mean**2
        means.append(mean)
        deviations.append(np.sqrt(np.maximum(variance, 0)))
    area = np.sqrt(count / (height * width))
    return np.stack([*means, *deviations, area], axis=-1).reshape(faces, -1)


def _areas(batch: Batch) -> NDArray[np.float64]:
    counts = batch.cell_counts
    cells = merge_cells(counts, 6) if counts.shape[1] % 6 == 0 else counts
    shares = cells.double() / cells.sum(dim=-1, keepdim=True)
    return shares.flatten(1).numpy()


# By name, the members that a block is made from, and its features, float64 (N, D). ``embedding``: of the
# networks that ``parse.features_from`` names. ``pooled``: of the parser. ``areas``: the share of each class
# in each cell of a 6 x 6 grid, or in each stored cell if 6 does not divide them. ``statistics``: see
# `region_statistics`.
BLOCKS: Final[dict[str, tuple[frozenset[str], Callable[[Batch], NDArray[np.float64]]]]] = {
    "embedding": (frozenset({"embedding.npy"}), lambda batch: batch.embedding.double().numpy()),
    "pooled": (frozenset({"pooled.npy"}), lambda batch: batch.pooled.double().numpy()),
    "areas": (frozenset({"parts.npy"}), _areas),
    "statistics": (frozenset({"jpg", "mask.png"}), region_statistics),
}
