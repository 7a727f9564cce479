"""Regressions on the kernels of the region probe, a kernel per attribute, and their calibration."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from training.models.region_probe import RegionKernels

JITTER: Final = 1e-6
"""Added to the kernel of references with themselves, which two equal faces make singular."""

SLOPE_PENALTY: Final = 2.0
"""Of the squared logarithm of an attribute's slope over the shared one, against the summed cross-entropy."""

MIN_SLOPE: Final = 0.1
"""Keeps the order of faces where predictions of those left out say nothing."""


@dataclass(frozen=True)
class Ridge:
    """The solution of one ridge regression for several columns of targets.

    Attributes:
        weights: float64 (D, A). biases: float64 (A,).
        left_out: float64 (R, A), the prediction for each of R faces by the regression on all others.
    """

    weights: Tensor
    biases: Tensor
    left_out: Tensor


def ridge(features: Tensor, targets: Tensor, penalties: Sequence[float], rows: Tensor) -> list[Ridge]:
    """Minimise the squared error plus each of the `penalties` times the squared weights; the bias is free.

    With the hat matrix H, the prediction for a face that was left out is y - (y - prediction) / (1 - H_ii).

    Args:
        features: float64 (N, D). targets: float64 (N, A).
        penalties: above 0.
        rows: int64 (R,), the faces for which `Ridge.left_out` is computed.
    """
    mean, base = features.mean(0), targets.mean(0)
    centred, deviations, count = features - mean, targets - base, len(features)
    products, moments = centred.T @ centred, centred.T @ deviations
    solutions = []
    for penalty in penalties:
        penalised = products.clone()
        penalised.diagonal().add_(penalty)
        factor = torch.linalg.cholesky(penalised)
        weights = torch.cholesky_solve(moments, factor)
        solved = torch.linalg.solve_triangular(factor, centred[rows].T, upper=False)
        remaining = 1 - solved.square().sum(0) - 1 / count
        residuals = deviations[rows] - centred[rows] @ weights
        left_out = targets[rows] - residuals / remaining.clamp(min=1e-6)[:, None]
        solutions.append(Ridge(weights, base - mean @ weights, left_out))
    return solutions


@dataclass(frozen=True)
class Fit:
    """The regressions of all attributes with one penalty.

    Attributes:
        weights: float64 (R, A), of the kernel with each of R references. biases: float64 (A,).
        left_out: float64 (L, A), predictions for faces that were left out; where a label is unknown the face
            was not among those that were regressed on.
    """

    weights: NDArray[np.float64]
    biases: NDArray[np.float64]
    left_out: NDArray[np.float64]


def fit_attributes(
    kernels: RegionKernels,
    labels: NDArray[np.int8],
    references: NDArray[np.int64],
    classes: Sequence[tuple[int, ...]],
    penalties: Sequence[float],
    rows: NDArray[np.int64],
) -> list[Fit]:
    """A regression per attribute, for each penalty.

    With K between faces and references, and the Cholesky factor L of K between references, the rows of
    K L^-T have K's inner products, so that a linear regression on them is the kernel regression.

    An attribute with fewer than two known labels predicts its share of positives.

    Args:
        kernels: of the N faces with the references.
        labels: int8 (N, A), 0 or 1, -1 where unknown.
        references: int64 (R,), the faces that are references.
        classes: of each attribute's regions.
        penalties: of the squared weights.
        rows: int64 (L,), the faces that are left out in turn.
    """
    share = ((labels == 1).sum(0) + 0.5) / ((labels >= 0).sum(0) + 1)
    fits = [
        Fit(
            np.zeros((len(references), labels.shape[1])),
            share.copy(),
            np.tile(share, (len(rows), 1)),
        )
        for _ in penalties
    ]
    together: dict[tuple[tuple[int, ...], bytes], list[int]] = {}
    for attribute, regions in enumerate(classes):
        together.setdefault((regions, (labels[:, attribute] >= 0).tobytes()), []).append(attribute)
    for (regions, _), attributes in together.items():
        known = np.flatnonzero(labels[:, attributes[0]] >= 0)
        if len(known) < 2:
            continue
        kernel = kernels(regions)
        among_references = kernel[references]
        among_references.diagonal().add_(JITTER)
        factor = torch.linalg.cholesky(among_references)
        inputs = torch.linalg.solve_triangular(factor, kernel[known].T, upper=False).T
        targets_of = np.array(attributes)
        targets = torch.from_numpy(labels[np.ix_(known, targets_of)].astype(np.float64))
        of_known = np.flatnonzero(np.isin(rows, known))
        among_known = torch.from_numpy(np.searchsorted(known, rows[of_known]))
        for fit, solution in zip(fits, ridge(inputs, targets, penalties, among_known), strict=True):
            weights = torch.linalg.solve_triangular(factor.T, solution.weights, upper=True)
            fit.weights[:, targets_of] = weights.numpy()
            fit.biases[targets_of] = solution.biases.numpy()
            fit.left_out[:, targets_of] = (kernel[rows] @ weights + solution.biases).numpy()
            fit.left_out[np.ix_(of_known, targets_of)] = solution.left_out.numpy()
    return fits


def calibrate(
    predictions: NDArray[np.float64], labels: NDArray[np.int8]
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Slopes (A,) and offsets (A,) that turn predictions of 0 and 1 into logits, and the mean cross-entropy.

    Platt's scaling (1999) of each attribute, whose slope is drawn towards one that all attributes share,
    since a rare attribute has few positives.

    Args:
        predictions: float64 (N, A), of faces that were left out.
        labels: int8 (N, A), 0 or 1, -1 where unknown.
    """
    known, targets = torch.from_numpy(labels >= 0), torch.from_numpy(labels == 1).double()
    share = (targets.sum(0) + 0.5) / (known.sum(0) + 1)
    deviation = (share * (1 - share)).sqrt()
    inputs = torch.where(known, (torch.from_numpy(predictions) - share) / deviation, 0.0)
    shared = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    own = torch.zeros_like(share, requires_grad=True)
    offsets = share.logit().requires_grad_()
    optimizer = torch.optim.LBFGS([shared, own, offsets], max_iter=200, line_search_fn="strong_wolfe")

    def cross_entropy() -> Tensor:
        logits = offsets + (MIN_SLOPE + (shared + own).exp()) * inputs
        return F.binary_cross_entropy_with_logits(logits, targets, known.double(), reduction="sum")

    def objective() -> float:
        optimizer.zero_grad()
        value = cross_entropy() + SLOPE_PENALTY * own.square().sum()
        value.backward()
        return value.item()

    optimizer.step(objective)
    slopes = ((MIN_SLOPE + (shared + own).exp()) / deviation).detach()
    loss = (cross_entropy() / known.sum().clamp(min=1)).item()
    return slopes.numpy(), (offsets.detach() - share * slopes).numpy(), loss
