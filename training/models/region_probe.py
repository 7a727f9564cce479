"""The region probe: kernel regression in which every attribute has its own distance between faces.

The distance of two faces is that of their features, in which the regions that show the attribute weigh
more than all others, see docs/method.md. Its kernel is exp(-(distance / width) ** power).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.classes import NUM_CLASSES
from common.shards import FEATURE_GRID
from training.models.probe import FeatureSet, Probe
from training.models.region_statistics import STATISTICS

REGION_SHARE: Final = 0.7
"""Share of the attribute's regions in the squared norm of a face's features; see docs/method.md."""

WIDTH: Final = 2.4
"""Of the kernel, where the mean squared norm of a face's features is 1, so that faces lie 1.4 apart."""

POWER: Final = 1.4
"""Of the distance; 1 is the Laplacian kernel and 2 the Gaussian, see docs/method.md."""


@dataclass(frozen=True)
class RegionProbe(Probe):
    """Logits are weighted sums of a face's similarities to reference faces.

    Attributes:
        weights: float64 (R, A), of the similarities.
        whole: the features of the whole face among those that it reads.
        references: float32 (R, D), standardised features of the faces that others are compared with.
        classes: of each attribute's regions.
    """

    whole: FeatureSet
    references: NDArray[np.float32]
    classes: tuple[tuple[int, ...], ...]

    def logits(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Logits, float64 (N, A), of features, float64 (N, D)."""
        kernels = RegionKernels((features - self.mean) * self.scale, self.references, self.whole)
        logits = np.empty((len(features), len(self.classes)))
        for classes in set(self.classes):
            columns = [column for column, other in enumerate(self.classes) if other == classes]
            logits[:, columns] = kernels(classes).numpy() @ self.weights[:, columns]
        return logits + self.biases


class RegionKernels:
    """Similarities of faces to reference faces, 0 to 1, by the regions that are compared.

    Args:
        features: (N, D), standardised. references: (R, D), standardised in the same way.
        whole: the features of the whole face among them.
    """

    def __init__(
        self, features: NDArray[np.float64], references: NDArray[np.float32], whole: FeatureSet
    ) -> None:
        self._columns = region_of_columns(whole, features.shape[1])
        self._features, self._references = torch.from_numpy(features), torch.from_numpy(references).double()
        self._statistics = np.arange(len(self._columns)) >= len(self._columns) - STATISTICS * NUM_CLASSES
        self._whole = self._distances(~self._statistics)

    def __call__(self, classes: Sequence[int]) -> Tensor:
        """The kernel, float64 (N, R), of attributes that show in the regions of these `classes`.

        Features of the whole face have 1 - `REGION_SHARE` of a face's squared norm; the features of the
        regions and their statistics have one half each of the rest. Without regions it is all the first.
        """
        of_region = np.isin(self._columns, classes)
        blocks = [
            block for block in (of_region & ~self._statistics, of_region & self._statistics) if block.any()
        ]
        squared = self._whole * (1 - REGION_SHARE if blocks else 1.0)
        for block in blocks:
            squared += self._distances(block) * (REGION_SHARE / len(blocks))
        return squared.div_(WIDTH**2).pow_(POWER / 2).neg_().exp_()

    def _distances(self, block: NDArray[np.bool_]) -> Tensor:
        """Squared distances, float64 (N, R), per feature of the `block`."""
        used = torch.from_numpy(block)
        a, b = self._features[:, used], self._references[:, used]
        products = torch.addmm(b.square().sum(1), a, b.T, alpha=-2)
        return products.add_(a.square().sum(1, keepdim=True)).clamp_(min=0).div_(a.shape[1])


def region_of_columns(whole: FeatureSet, columns: int) -> NDArray[np.int64]:
    """The class that each column of the features ``regions`` describes, int64 (D,); -1 for the whole face.

    Args:
        whole: what comes before the statistics. ``pooled`` ends with 64 channels of each class.
        columns: D.
    """
    statistics = np.repeat(np.arange(NUM_CLASSES), STATISTICS)
    by_class = np.repeat(np.arange(NUM_CLASSES), FEATURE_GRID[2] if whole == "pooled" else 0)
    others = np.full(columns - len(by_class) - len(statistics), -1)
    return np.concatenate((others, by_class, statistics))
