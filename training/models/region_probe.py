"""The region probe: kernel regression in which every attribute has its own distance between faces.

The distance of two faces is that of their features, in which the regions that show the attribute weigh
more than all others, and of a first such regression's predictions of all attributes, since attributes go
together; see docs/method.md. Its kernel is exp(-(distance / width) ** power).
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.classes import CLASSES, NUM_CLASSES
from common.errors import UserError
from common.shards import FEATURE_CHANNELS
from common.strict_yaml import read_yaml
from training.models.probe import Probe
from training.models.stored_features import STATISTICS, Blocks

REGION_SHARE: Final = 0.7
"""Share of the attribute's regions in the squared norm of a face's features; see docs/method.md."""

WIDTH: Final = 2.4
"""Of the kernel, where the mean squared norm of a face's features is 1, so that faces lie 1.4 apart."""

POWER: Final = 1.4
"""Of the distance; 1 is the Laplacian kernel and 2 the Gaussian, see docs/method.md."""

CELEBA_REGIONS: Final = Path(__file__).with_name("attribute_regions.yaml")
"""Which regions of the face show CelebA's attributes."""

PAIRS: Final = {
    "brow": ("l_brow", "r_brow"),
    "eye": ("l_eye", "r_eye"),
    "ear": ("l_ear", "r_ear"),
    "lip": ("u_lip", "l_lip"),
}
"""Names that stand for two classes."""

Regions = Mapping[str, Sequence[str]]
"""Names of regions by attribute."""


@dataclass(kw_only=True, eq=False)
class RegionProbe(Probe, kind="region_probe"):
    """Logits are weighted sums of a face's similarities to reference faces.

    Attributes:
        weights: float64 (R, A), of the similarities.
        references: float32 (R, D), standardised features of the faces that others are compared with.
        classes: of each attribute's regions.
        first_weights, first_biases: float64 (R, A) and (A,), of the first regression.
        prediction_mean, prediction_scale: float64 (A,), standardise its predictions to (x - mean) * scale.
        reference_predictions: float32 (R, A), its standardised predictions of the references, each by the
            regression without that face.
        prediction_share: of these predictions in the squared distance, 0 to 1.
    """

    references: NDArray[np.float32]
    classes: tuple[tuple[int, ...], ...]
    first_weights: NDArray[np.float64]
    first_biases: NDArray[np.float64]
    prediction_mean: NDArray[np.float64]
    prediction_scale: NDArray[np.float64]
    reference_predictions: NDArray[np.float32]
    prediction_share: float

    def logits_of(self, standardised: NDArray[np.float64]) -> NDArray[np.float64]:
        """Logits, float64 (N, A), of standardised features, float64 (N, D)."""
        (logits,) = self.kernels(standardised).sums(self.classes, [self.weights])
        return logits + self.biases

    def kernels(self, standardised: NDArray[np.float64]) -> "RegionKernels":
        """Similarities to the references of faces with these standardised features, float64 (N, D)."""
        kernels = RegionKernels(standardised, self.references, self.blocks)
        (first,) = kernels.sums(self.classes, [self.first_weights])
        predictions = (first + self.first_biases - self.prediction_mean) * self.prediction_scale
        return kernels.stacked(predictions, self.reference_predictions, self.prediction_share)


class RegionKernels:
    """Similarities of faces to reference faces, 0 to 1, by the regions that are compared.

    Args:
        features: (N, D), standardised. references: (R, D), standardised in the same way.
        blocks: what the features are.
    """

    def __init__(
        self, features: NDArray[np.float64], references: NDArray[np.float32], blocks: Blocks
    ) -> None:
        self._columns = region_of_columns(blocks, features.shape[1])
        self._features, self._references = torch.from_numpy(features), torch.from_numpy(references).double()
        self._statistics = np.arange(len(self._columns)) >= len(self._columns) - STATISTICS * NUM_CLASSES
        self._whole = self._distances(~self._statistics)
        self._of_predictions, self._share = torch.zeros(()), 0.0

    def stacked(
        self, predictions: NDArray[np.float64], of_references: NDArray[np.float32], share: float
    ) -> "RegionKernels":
        """Kernels in which predictions, (N, A) and (R, A), have a `share` of the squared distance, 0 to 1."""
        kernels = copy.copy(self)
        kernels._of_predictions = _squared_distances(
            torch.from_numpy(predictions), torch.from_numpy(of_references).double()
        )
        kernels._share = share
        return kernels

    def sums(
        self, classes: Sequence[tuple[int, ...]], weights: Sequence[NDArray[np.float64]]
    ) -> list[NDArray[np.float64]]:
        """For each of some `weights`, (R, A), the weighted sums of the attributes' kernels, float64 (N, A).

        Args:
            classes: of each attribute's regions.
            weights: as above.
        """
        sums = [np.empty((len(self._features), len(classes))) for _ in weights]
        for regions in dict.fromkeys(classes):
            columns = [column for column, other in enumerate(classes) if other == regions]
            kernel = self(regions).numpy()
            for each, weight in zip(sums, weights, strict=True):
                each[:, columns] = kernel @ weight[:, columns]
        return sums

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
        squared = squared * (1 - self._share) + self._of_predictions * self._share
        return squared.div_(WIDTH**2).pow_(POWER / 2).neg_().exp_()

    def _distances(self, block: NDArray[np.bool_]) -> Tensor:
        used = torch.from_numpy(block)
        return _squared_distances(self._features[:, used], self._references[:, used])


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared differences, float64 (N, R), of the columns of (N, D) and (R, D)."""
    products = torch.addmm(b.square().sum(1), a, b.T, alpha=-2)
    return products.add_(a.square().sum(1, keepdim=True)).clamp_(min=0).div_(a.shape[1])


def region_of_columns(blocks: Blocks, columns: int) -> NDArray[np.int64]:
    """The class that each column of the features describes, int64 (D,); -1 for the whole face.

    Args:
        blocks: what the features are; ``statistics`` can only be the last. ``pooled`` ends with 64 channels
            of each class, and is the last or the one before.
        columns: D.
    """
    statistics = np.repeat(np.arange(NUM_CLASSES), STATISTICS if "statistics" in blocks else 0)
    by_class = np.repeat(np.arange(NUM_CLASSES), FEATURE_CHANNELS if "pooled" in blocks else 0)
    others = np.full(columns - len(by_class) - len(statistics), -1)
    return np.concatenate((others, by_class, statistics))


def read_regions(file: Path = CELEBA_REGIONS) -> dict[str, list[str]]:
    """Names of regions by attribute.

    Args:
        file: YAML, a list of classes of the masks or of names in `PAIRS` under each attribute.

    Raises:
        UserError: the file cannot be read, is not such a mapping, or names an unknown region.
    """
    regions = read_yaml(file, "attributes and regions, as finetune.regions should be")
    if not isinstance(regions, dict) or not all(isinstance(names, list) for names in regions.values()):
        raise UserError(f"{file}: expected a list of regions under each attribute")
    known = (*CLASSES, *PAIRS)
    for attribute, names in regions.items():
        for name in names:
            if name not in known:
                raise UserError(f"{file}: {attribute} has region {name!r}; known are {', '.join(known)}")
    return regions


def region_classes(attributes: Sequence[str], regions: Regions) -> list[tuple[int, ...]]:
    """The classes of each attribute's regions, ascending; none for an attribute that is not listed."""
    names = [
        {each for name in regions.get(attribute, ()) for each in PAIRS.get(name, (name,))}
        for attribute in attributes
    ]
    return [tuple(position for position, name in enumerate(CLASSES) if name in each) for each in names]
