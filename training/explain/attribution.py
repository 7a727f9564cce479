"""Attribution maps: what each location of a face contributes to each attribute's logit, averaged over faces.

A head is linear and reads the mean over the cells of its branch's features, so the contribution of a cell is
its product with the head's weights: the class activation map (Zhou et al. 2016, arXiv:1512.04150). The sum
over all cells is the logit without its bias. For a probe, it is what each region of the face contributes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from common.classes import CLASSES, NUM_CLASSES
from common.hardware import hardware
from training.data.loader import Batch
from training.models.attribute_network import AttributeNetwork
from training.models.blocks import to_input
from training.models.probe import Probe
from training.models.stored_features import features_of

# Shifts per axis, within a cell of the features, at which each face is seen, with and without a flip.
SHIFTS: Final = 3
STRIDE: Final = 4  # Maps of regions have every fourth row and column of the faces


@dataclass(frozen=True)
class MeanMaps:
    """Mean attribution to the logit of one attribute, float (S, S), positive where it raises the logit."""

    present: NDArray[np.float64] | None  # over the faces with the attribute; None if there are none
    absent: NDArray[np.float64] | None  # over those without it
    counts: tuple[int, int]  # how many faces those are

    @property
    def difference(self) -> NDArray[np.float64] | None:
        """Present minus absent, which tells the two apart; the only one if the other is None."""
        if self.present is None or self.absent is None:
            return self.absent if self.present is None else self.present
        return self.present - self.absent


@torch.inference_mode()
def attribution(model: AttributeNetwork, images: Tensor) -> Tensor:
    """The attribution of each logit to each feature cell, float (B, A, h, w).

    The model is in evaluation mode, and the images are normalised, float (B, 3, S, S).
    """
    branches = model.network(images).branches
    pairs = ((head.weight, branches[branch]) for branch, head in model.heads.items())
    maps = [torch.einsum("ac,bchw->bahw", weight, cells) / cells[0, 0].numel() for weight, cells in pairs]
    return torch.cat(maps, dim=1)[:, model.get_buffer("inverse")]


@dataclass(frozen=True)
class View:
    """One of the ways in which each face is seen: flipped or not, then shifted by whole pixels.

    A feature cell is many pixels wide; the cells of other views lie elsewhere on the face.
    """

    down: int
    right: int
    flipped: bool

    def apply(self, images: Tensor) -> Tensor:
        """The images, float (B, 3, S, S), in this view; borders are replicated."""
        size, pad = images.shape[-1], max(abs(self.down), abs(self.right))
        padded = F.pad(images.flip(-1) if self.flipped else images, (pad, pad, pad, pad), mode="replicate")
        top, left = pad + self.down, pad + self.right
        view = padded[..., top : top + size, left : left + size]
        return view.contiguous(memory_format=torch.channels_last)

    def invert(self, cells: NDArray[np.float64], size: int) -> NDArray[np.float64]:
        """Values of this view's cells, (..., h, h), at the pixels of the face, (..., `size`, `size`).

        Odd kernels with symmetric padding, which all networks of the project have, centre cell i at
        pixel i * stride. Values are linear between centres and constant beyond the outer ones.
        """
        centres = np.arange(count := cells.shape[-1])
        pixels = ((np.arange(size) - shift) / (size // count) for shift in (self.down, self.right))
        distances = (np.clip(each, 0, count - 1)[:, None] - centres for each in pixels)
        rows, columns = (np.maximum(0.0, 1.0 - np.abs(each)) for each in distances)
        values = np.einsum("yi,...ij,xj->...yx", rows, cells, columns)
        return values[..., ::-1] if self.flipped else values


def mean_maps(
    model: AttributeNetwork, batches: Iterable[tuple[Tensor, NDArray[np.int8]]]
) -> tuple[list[MeanMaps], NDArray[np.float64]]:
    """The mean maps of all attributes, at the network's input size, and the average face.

    Args:
        batches: faces, uint8 (B, 3, F, F), and their labels, (B, A), -1 where unknown.

    Returns:
        A `MeanMaps` per attribute, and the average face, float RGB 0..255 (F, F, 3).
    """
    device, size = hardware().device, model.config.input_size
    model.to(device).eval()
    cells = attribution(model, torch.zeros(1, 3, size, size, device=device)).shape[-1]
    stride = size // cells
    shifts = [round(stride * ((number + 0.5) / SHIFTS - 0.5)) for number in range(SHIFTS)]
    views = [View(*each) for each in product(shifts, shifts, (False, True))]

    def terms(images: Tensor, labels: NDArray[np.int8]) -> list[Any]:
        inputs, selected = to_input(images.to(device), size), np.stack([labels == 1, labels == 0])
        maps = (attribution(model, view.apply(inputs)).double().cpu().numpy() for view in views)
        return [*(np.einsum("nba,bahw->nahw", selected, each) for each in maps), *_about(images, selected)]

    *sums, counts, face_sum, faces = _summed(terms(*batch) for batch in batches)
    total = np.mean([view.invert(each, size) for view, each in zip(views, sums, strict=True)], axis=0)
    return _mean_of(total, counts), face_sum / faces


def _about(images: Tensor, selected: NDArray[np.bool_]) -> list[Any]:
    """Of a batch: how many faces have and lack each attribute, the sum of the faces, and their number."""
    return [selected.sum(axis=1), images.double().sum(dim=0).permute(1, 2, 0).numpy(), len(images)]


def _summed(terms: Iterable[list[Any]]) -> list[Any]:
    return reduce(lambda sums, more: [a + b for a, b in zip(sums, more, strict=True)], terms)


def _mean_of(total: NDArray[np.float64], counts: NDArray[np.int64]) -> list[MeanMaps]:
    """The means of maps, (2, A, S, S), that were summed over so many faces, (2, A)."""
    means = []
    for position, both in enumerate(counts.T.tolist()):
        pairs = zip(total[:, position], both, strict=True)
        present, absent = (each / count if count else None for each, count in pairs)
        means.append(MeanMaps(present, absent, tuple(both)))
    return means


def contributions(probe: Probe, batch: Batch) -> NDArray[np.float64]:
    """The contribution of each class of the masks to each logit, float64 (B, 19, A).

    It is how much the logit falls if the features of that region, and no others, become those of the average
    face. It is drawn where the region lies; that of a region which a face lacks lies nowhere.
    """
    standardised = (features_of(batch, probe.blocks) - probe.mean) * probe.scale
    region = np.repeat([part[1] for part in probe.parts], [end - start for *_, start, end in probe.parts])
    without = [probe.logits_of(np.where(region == each, 0.0, standardised)) for each in range(NUM_CLASSES)]
    return probe.logits_of(standardised)[:, None] - np.stack(without, axis=1)


def mean_region_maps(
    probe: Probe, batches: Iterable[tuple[Batch, NDArray[np.int8]]]
) -> tuple[list[MeanMaps], NDArray[np.float64], list[dict[str, float]]]:
    """The mean maps of all attributes, the average face, and the regions' shares.

    Args:
        batches: faces with masks and what the probe reads, and their labels, (B, A), -1 where unknown.

    Returns:
        A `MeanMaps` per attribute; the average face, float RGB 0..255 (F, F, 3); and by attribute and region
        the mean absolute contribution as a share of that of all regions, 0 to 1.
    """

    def terms(batch: Batch, labels: NDArray[np.int8]) -> list[Any]:
        by_region, masks = contributions(probe, batch), batch.masks.numpy()[:, ::STRIDE, ::STRIDE]
        selected = np.stack([labels == 1, labels == 0])
        maps = np.einsum("nba,bhwa->nahw", selected, by_region[np.arange(len(masks))[:, None, None], masks])
        return [maps, np.abs(by_region).sum(axis=0), *_about(batch.images, selected)]

    sums, sizes, counts, face_sum, faces = _summed(terms(*batch) for batch in batches)
    shares = sizes / np.maximum(sizes.sum(axis=0), 1e-12)
    named = [dict(zip(CLASSES, column.round(4).tolist(), strict=True)) for column in shares.T]
    return _mean_of(sums, counts), face_sum / faces, named
