"""What each place of a face contributes to each attribute's logit, averaged over faces.

What a place of a branch's last features contributes is the product of the features there and the
logit's gradient by them, summed over channels (HiResCAM, Draelos and Carin 2020, arXiv:2011.08891).
With mean pooling and a linear head this is the class-activation map, and the sum over all places
is the logit without its bias. Nothing is attributed to a branch that does not predict the attribute.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from training.data.transforms import to_input
from training.engine.device import default_device
from training.models.classifier import Classifier
from training.models.features import Features

SHIFTS: Final = 3
"""Positions per axis at which each face is seen."""


@dataclass(frozen=True)
class Maps:
    """Mean contributions to the logit of one attribute, float (S, S), positive towards yes.

    Attributes:
        present, absent: over the faces that have it and that do not; None without any.
        counts: how many faces those are.
    """

    present: NDArray[np.float64] | None
    absent: NDArray[np.float64] | None
    counts: tuple[int, int]

    @property
    def difference(self) -> NDArray[np.float64] | None:
        """What tells the two apart: present minus absent, or the one that there is."""
        if self.present is None or self.absent is None:
            return self.absent if self.present is None else self.present
        return self.present - self.absent


def contributions(model: Classifier, pictures: Tensor) -> Tensor:
    """Contributions of each feature cell to each logit, float (B, A, h, w).

    Args:
        model: in evaluation mode.
        pictures: normalised, float (B, 3, S, S).
    """
    with _detached_features(model.network) as seen:
        logits = model(pictures)
    (features,) = seen
    maps: list[Tensor | None] = [None] * logits.shape[1]
    for branch, positions in model.groups.items():
        cells = features.branches[branch]
        for position in positions:
            (slope,) = torch.autograd.grad(logits[:, position].sum(), cells, retain_graph=True)
            maps[position] = (slope * cells).sum(dim=1).detach()
    return torch.stack([found for found in maps if found is not None], dim=1)


@dataclass(frozen=True)
class View:
    """One of the ways in which each face is seen: mirrored or not, then moved by whole pixels.

    A feature cell is many pixels wide; the cells of other views lie elsewhere on the face.
    """

    down: int
    right: int
    mirrored: bool

    def of(self, pictures: Tensor) -> Tensor:
        """The pictures, float (B, 3, S, S), in this view; borders are repeated."""
        size, pad = pictures.shape[-1], max(abs(self.down), abs(self.right))
        seen = F.pad(pictures.flip(-1) if self.mirrored else pictures, (pad, pad, pad, pad), mode="replicate")
        top, left = pad + self.down, pad + self.right
        return seen[..., top : top + size, left : left + size].contiguous(memory_format=torch.channels_last)

    def back(self, cells: NDArray[np.float64], size: int) -> NDArray[np.float64]:
        """Values of the cells of this view, (..., h, h), at the pixels of the face, (..., S, S).

        Odd kernels with symmetric padding, as all networks of the project have them, centre cell i at
        pixel i * stride. Between centres values are linear, outside of them constant.
        """
        count = cells.shape[-1]
        rows, columns = (
            _linear((np.arange(size) - move) / (size // count), count) for move in (self.down, self.right)
        )
        found = np.einsum("yi,...ij,xj->...yx", rows, cells, columns)
        return found[..., ::-1] if self.mirrored else found


def _linear(places: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Weights of linear interpolation, (N, count), at N places on an axis of `count` values."""
    inside = np.clip(places, 0, count - 1)[:, None]
    return np.maximum(0.0, 1.0 - np.abs(inside - np.arange(count)))


def views(stride: int) -> list[View]:
    """`SHIFTS` x `SHIFTS` moves within a cell of `stride` pixels, and their mirror images."""
    moves = [round(stride * ((number + 0.5) / SHIFTS - 0.5)) for number in range(SHIFTS)]
    return [View(down, right, mirrored) for down, right, mirrored in product(moves, moves, (False, True))]


@contextmanager
def _detached_features(network: nn.Module) -> Iterator[list[Features]]:
    """Catch what `network` hands to the heads, cut off from what made it, so that only heads are traced."""
    seen: list[Features] = []

    def cut(module: nn.Module, inputs: Any, features: Features) -> Features:
        branches = {name: cells.detach().requires_grad_() for name, cells in features.branches.items()}
        seen.append(Features(features.backbone.detach(), branches))
        return seen[-1]

    handle = network.register_forward_hook(cut)
    try:
        yield seen
    finally:
        handle.remove()


def mean_maps(
    model: Classifier, size: int, batches: Iterable[tuple[Tensor, NDArray[np.int8]]]
) -> tuple[list[Maps], NDArray[np.float64]]:
    """The maps of all attributes, and the average face, float RGB 0..255 (F, F, 3).

    Args:
        model: in evaluation mode.
        size: side in pixels of what it sees, and of the maps.
        batches: faces, uint8 (B, 3, F, F), and their labels, (B, A), -1 where unknown.
    """
    model.to(default_device()).eval()
    with torch.no_grad():
        cells = model.network(torch.zeros(1, 3, size, size, device=default_device())).backbone.shape[-1]
    looks = views(size // int(cells))
    sums: list[Any] = [0.0] * len(looks)
    counts: Any = 0
    average: Any = 0.0
    faces = 0
    for images, labels in batches:
        pictures = to_input(images.to(default_device()), size)
        chosen = np.stack([labels == 1, labels == 0])
        for number, view in enumerate(looks):
            found = contributions(model, view.of(pictures)).double().cpu().numpy()
            sums[number] = sums[number] + np.einsum("nba,bahw->nahw", chosen, found)
        counts = counts + chosen.sum(axis=1)
        average = average + images.double().sum(dim=0).permute(1, 2, 0).numpy()
        faces += len(images)
    total = np.mean([view.back(each, size) for view, each in zip(looks, sums, strict=True)], axis=0)
    maps = []
    for position, (present, absent) in enumerate(counts.T.tolist()):
        means = [
            each[position] / count if count else None
            for each, count in zip(total, (present, absent), strict=True)
        ]
        maps.append(Maps(means[0], means[1], (present, absent)))
    return maps, average / faces
