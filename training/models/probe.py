"""The probes, which classify features that the shards hold already: a linear one, and one by regions."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.classes import CLASSES
from common.errors import UserError
from common.strict_yaml import read_yaml
from training.data.loader import Batch
from training.models.classifier import Classifier
from training.models.stored_features import Blocks, Part, features_of, members_of


@dataclass(kw_only=True, eq=False)
class Probe(Classifier, kind="probe"):
    """Linear logits of standardised features."""

    blocks: Blocks  # what it reads, see `training.models.stored_features`
    parts: tuple[Part, ...]  # of its features, see `training.models.stored_features.Part`
    # Both float64 (D,); features are standardised to (x - mean) * scale.
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    weights: NDArray[np.float64]  # float64 (D, A)
    biases: NDArray[np.float64]  # float64 (A,)

    @property
    def members(self) -> frozenset[str]:
        """The members that its blocks are made from."""
        return members_of(self.blocks)

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """Logits, float32 (N, A), of a batch.

        Raises:
            UserError: the shards hold features of another length than those that it was fitted on.
        """
        features = features_of(batch, self.blocks)
        if features.shape[1:] != self.mean.shape:
            raise UserError(
                f"the shards have {features.shape[1]} features per face, but the classifier was fitted on "
                f"{len(self.mean)}; fit it again"
            )
        return self.logits_of((features - self.mean) * self.scale).astype(np.float32)

    def logits_of(self, standardised: NDArray[np.float64]) -> NDArray[np.float64]:
        """Logits, float64 (N, A), of standardised features, float64 (N, D)."""
        return standardised @ self.weights + self.biases


# Of the kernel, where the mean squared norm of a face's features is 1, so that faces lie 1.4 apart.
WIDTH: Final = 2.4
POWER: Final = 1.4  # Of the distance; 1 is the Laplacian kernel and 2 the Gaussian, see docs/method.md
# Names that stand for two classes.
PAIRS: Final = {
    "brow": ("l_brow", "r_brow"),
    "eye": ("l_eye", "r_eye"),
    "ear": ("l_ear", "r_ear"),
    "lip": ("u_lip", "l_lip"),
}
Regions = Mapping[str, Sequence[str]]  # Names of regions by attribute


@dataclass(kw_only=True, eq=False)
class RegionProbe(Probe, kind="region_probe"):
    """Kernel regression in which every attribute has its own distance between faces.

    Features come in parts, such as those of one region of the face. The squared distance of two faces is a
    weighted sum of the parts' mean squared differences, with weights of each attribute, and of the
    differences of a first such regression's predictions of all attributes, since attributes go together; see
    docs/method.md. Its kernel is exp(-(distance / width) ** power). Logits are weighted sums of a face's
    similarities to R reference faces, with `weights`, float64 (R, A), and of its D features.
    """

    # float32 (R, D), standardised features of the faces that others are compared with.
    references: NDArray[np.float32]
    block_weights: NDArray[np.float64]  # float64 (A, B), of the parts in an attribute's squared distance
    first_weights: NDArray[np.float64]  # float64 (R, A), of the first regression
    first_biases: NDArray[np.float64]  # float64 (A,), of the first regression
    # Both float64 (A,), standardise its predictions to (x - mean) * scale.
    prediction_mean: NDArray[np.float64]
    prediction_scale: NDArray[np.float64]
    # float32 (R, A), its standardised predictions of the references, each by a regression without it.
    reference_predictions: NDArray[np.float32]
    prediction_share: float  # of these predictions in the squared distance, 0 to 1
    linear_weights: NDArray[np.float32]  # float32 (D, A), of the standardised features

    @property
    def columns(self) -> tuple[tuple[int, int], ...]:
        """Of the features, first and last + 1 of each of the B parts."""
        return tuple(part[2:] for part in self.parts)

    def logits_of(self, standardised: NDArray[np.float64]) -> NDArray[np.float64]:
        """Logits, float64 (N, A), of standardised features, float64 (N, D)."""
        features, references = torch.from_numpy(standardised).float(), torch.from_numpy(self.references)
        kernels = Kernels(features, references, self.columns, self.block_weights)
        first = kernels.sums(torch.from_numpy(self.first_weights)).numpy() + self.first_biases
        predictions = torch.from_numpy((first - self.prediction_mean) * self.prediction_scale)
        of_references = torch.from_numpy(self.reference_predictions)
        kernels = kernels.stacked(predictions, of_references, self.prediction_share)
        linear = (features @ torch.from_numpy(self.linear_weights)).double().numpy()
        return kernels.sums(torch.from_numpy(self.weights)).numpy() + linear + self.biases


class Kernels:
    """Similarities of N faces to R reference faces, 0 to 1: a kernel for each distinct row of weights.

    Features are standardised, float32 or float16 (N, D), references alike (R, D); see also `RegionProbe`.
    """

    def __init__(
        self,
        features: Tensor,
        references: Tensor,
        columns: Sequence[tuple[int, int]],
        weights: NDArray[np.float64],
    ) -> None:
        self._features, self._references, self._columns = features, references.float(), columns
        self._predictions, self._of_references = features[:, :0], references[:, :0]
        self.groups = equal_rows(weights)  # the attributes that share a kernel
        self._weights = weights[[group[0] for group in self.groups]]
        self._common = (self._weights > 0).all(axis=0)
        self._cache: tuple[NDArray[np.float64], Tensor] | None = None
        self._share = 0.0

    def stacked(self, predictions: Tensor, of_references: Tensor, share: float) -> "Kernels":
        """Kernels in which predictions, (N, A) and (R, A), have a `share` of the squared distance, 0 to 1."""
        kernels = copy.copy(self)
        kernels._predictions, kernels._of_references = predictions.float(), of_references.float()
        kernels._share = share
        return kernels

    def sums(self, weights: Tensor) -> Tensor:
        """Weighted sums, float64 (N, A), of each attribute's kernel, by `weights`, float64 (R, A)."""
        sums = torch.empty(len(self._features), weights.shape[1], dtype=torch.double)
        for group, attributes in enumerate(self.groups):
            sums[:, attributes] = self(group) @ weights[:, attributes]
        return sums

    def __call__(self, group: int, rows: Tensor | slice = slice(None)) -> Tensor:
        """The kernel, float64 (N, R), of a group of attributes; only of some faces if `rows` are given."""
        weights, common = self._weights[group], self._common
        scale = weights[common].sum() or 1.0
        squared = self._common_distances(np.where(common, weights / scale, 0.0), rows) * scale
        self._distances(np.where(common, 0.0, weights), rows, squared)
        squared.mul_(1 - self._share)
        if self._share:
            squared.add_(squared_distances(self._predictions[rows], self._of_references), alpha=self._share)
        return kernel_of(squared)

    def _common_distances(self, weights: NDArray[np.float64], rows: Tensor | slice) -> Tensor:
        """Those of the blocks that all attributes weigh, computed once while their proportions stay alike."""
        few = len(self._features) * len(self._references) <= 2000 * 20_000  # 160 MB
        if not few:
            return self._distances(weights, rows)
        if self._cache is None or not np.allclose(self._cache[0], weights, rtol=0, atol=1e-9):
            self._cache = weights, self._distances(weights, slice(None))
        return self._cache[1][rows]

    def _distances(
        self, weights: NDArray[np.float64], rows: Tensor | slice, total: Tensor | None = None
    ) -> Tensor:
        features = self._features[rows].float()
        total = torch.zeros(len(features), len(self._references)) if total is None else total
        for block in np.flatnonzero(weights > 0).tolist():
            columns = slice(*self._columns[block])
            squared = squared_distances(features[:, columns], self._references[:, columns])
            total.add_(squared, alpha=float(weights[block]))
        return total


def equal_rows(rows: NDArray[Any]) -> list[list[int]]:
    """The positions of rows that are equal, in the order of the first of each kind."""
    groups: dict[bytes, list[int]] = {}
    for position, row in enumerate(rows):
        groups.setdefault(row.tobytes(), []).append(position)
    return list(groups.values())


def kernel_of(squared: Tensor) -> Tensor:
    """Similarities, float64, of squared distances of the same shape."""
    return (squared / WIDTH**2).pow(POWER / 2).neg().exp().double()


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared differences, float32 (N, R), of the columns of (N, D) and (R, D)."""
    products = torch.addmm(b.square().sum(1), a, b.T, alpha=-2)
    return products.add_(a.square().sum(1, keepdim=True)).clamp_(min=0).div_(a.shape[1])


def read_regions(named: str | Path | None = None) -> dict[str, list[str]]:
    """Names of regions by attribute, by the YAML file `named`; None: CelebA's.

    The file has a list of classes of the masks or of names in `PAIRS` under each attribute.

    Raises:
        UserError: the file cannot be read, is not such a mapping, or names an unknown region.
    """
    file = Path(__file__).with_name("attribute_regions.yaml") if named is None else Path(named)
    regions = read_yaml(file, "attributes and regions, as finetune.regions should be")
    if not isinstance(regions, dict) or not all(isinstance(names, list) for names in regions.values()):
        raise UserError(f"{file}: expected a list of regions under each attribute")
    known = (*CLASSES, *PAIRS)
    for attribute, names in regions.items():
        for name in names:
            if name not in known:
                raise UserError(f"{file}: {attribute} has region {name!r}; known are {', '.join(known)}")
    return regions


def region_classes(attributes: Sequence[str], regions: Regions) -> list[tuple[int, ...] | None]:
    """The classes of each attribute's regions, ascending; None for an attribute that is not listed."""
    listed: list[tuple[int, ...] | None] = []
    for attribute in attributes:
        names = {each for name in regions.get(attribute, ()) for each in PAIRS.get(name, (name,))}
        classes = tuple(position for position, name in enumerate(CLASSES) if name in names)
        listed.append(classes if attribute in regions else None)
    return listed
