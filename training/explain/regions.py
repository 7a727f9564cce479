"""What each face region contributes to the logits of a probe.

A region's contribution is how much a logit falls if the features of that region, and no others, become those
of the average face. It is drawn where the region lies; that of a region which a face lacks lies nowhere.
"""

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from common.classes import CLASSES, NUM_CLASSES
from training.data.loader import Batch
from training.explain.attribution import MeanMaps, mean_of
from training.models.probe import Probe
from training.models.stored_features import features_of

STRIDE: Final = 4
"""The maps have every fourth row and column of the faces."""


def contributions(probe: Probe, batch: Batch) -> NDArray[np.float64]:
    """The contribution of each class of the masks to each logit, float64 (B, 19, A)."""
    standardised = (features_of(batch, probe.blocks) - probe.mean) * probe.scale
    region = np.repeat([part[1] for part in probe.parts], [end - start for *_, start, end in probe.parts])
    without = [probe.logits_of(np.where(region == each, 0.0, standardised)) for each in range(NUM_CLASSES)]
    return probe.logits_of(standardised)[:, None] - np.stack(without, axis=1)


def mean_region_maps(
    probe: Probe, batches: Iterable[tuple[Batch, NDArray[np.int8]]]
) -> tuple[list[MeanMaps], NDArray[np.float64], list[dict[str, float]]]:
    """The mean maps of all attributes, the average face, and the regions' shares.

    Args:
        probe: on parsed faces.
        batches: faces with masks and what the probe reads, and their labels, (B, A), -1 where unknown.

    Returns:
        A `MeanMaps` per attribute; the average face, float RGB 0..255 (F, F, 3); and by attribute and region
        the mean absolute contribution as a share of that of all regions, 0 to 1.
    """
    sums: Any = 0.0
    counts: Any = 0
    face_sum: Any = 0.0
    sizes: Any = 0.0
    faces = 0
    for batch, labels in batches:
        by_region, masks = contributions(probe, batch), batch.masks.numpy()[:, ::STRIDE, ::STRIDE]
        selected = np.stack([labels == 1, labels == 0])
        maps = by_region[np.arange(len(masks))[:, None, None], masks]
        sums = sums + np.einsum("nba,bhwa->nahw", selected, maps)
        counts = counts + selected.sum(axis=1)
        sizes = sizes + np.abs(by_region).sum(axis=0)
        face_sum = face_sum + batch.images.double().sum(dim=0).permute(1, 2, 0).numpy()
        faces += len(masks)
    shares = sizes / np.maximum(sizes.sum(axis=0), 1e-12)
    named = [dict(zip(CLASSES, column.round(4).tolist(), strict=True)) for column in shares.T]
    return mean_of(sums, counts), face_sum / faces, named
