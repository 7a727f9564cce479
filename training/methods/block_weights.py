"""Weights of the parts in the region probe's distances, learnt from labels by leave-one-out.

Every part's weight starts from a prior and is multiplied by factors: one of all attributes for each kind of
part, such as a network's features of the whole face, and for an attribute whose regions are not listed, one
for each region. Leaving one face out has a closed form in
kernel ridge regression (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, 5.4.2), so the
factors' logarithms are found by gradients of the squared errors. They are shrunken to 0.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.classes import NUM_CLASSES
from common.sampling import evenly_spaced
from training.engine.optim import minimise
from training.methods.calibration import draw_folds
from training.methods.kernel_regression import BIAS, FIRST_PENALTY
from training.models.probe import equal_rows, kernel_of, squared_distances
from training.models.stored_features import Part

# Shares in the squared distance before labels say more: of the whole face's features, of those of the
# attribute's regions, and of their statistics; all networks have the same part of the first two.
WHOLE, OF_CLASSES, STATISTICS = 0.3, 0.35, 0.35
# At most so many labelled faces choose the weights: few numbers, whose cost grows with the cube of these.
LEARNT_ON: Final = 256
MIN_ERROR: Final = 1e-6  # Keeps logarithms and quotients finite
# Penalties of the squared logarithms of factors, against the summed log-likelihoods of faces left out.
OF_KINDS, OF_REGIONS = 2.0, 1.0


def prior_weights(parts: Sequence[Part], classes: Sequence[tuple[int, ...] | None]) -> NDArray[np.float64]:
    """Weights of the parts in the squared distance, float64 (A, B), before labels say more; rows sum to 1.

    The classes are those of each attribute's regions, which share the regions' weight; None: all of them.
    """
    kinds = {part[0] for part in parts if part[1] >= 0} - {"statistics"}
    whole = sum(region < 0 for _, region, _, _ in parts)
    weights = np.zeros((len(classes), len(parts)))
    for row, regions in zip(weights, classes, strict=True):
        for position, (block, region, _, _) in enumerate(parts):
            among = range(NUM_CLASSES) if regions is None else regions
            if region < 0:
                row[position] = WHOLE / whole
            elif region in among:
                share = STATISTICS if block == "statistics" else OF_CLASSES / len(kinds)
                row[position] = share / len(among)
    return weights / weights.sum(axis=1, keepdims=True)


def learn_weights(
    features: NDArray[np.floating],
    labels: NDArray[np.int8],
    parts: Sequence[Part],
    classes: Sequence[tuple[int, ...] | None],
) -> NDArray[np.float64]:
    """The weights of the parts, float64 (A, B).

    For attributes without a list of regions, cross-validation among the labelled faces chooses between learnt
    regions, all regions alike, and the whole face alone. Features are standardised, (N, D), labels int8
    (N, A), 0 or 1, -1 where unknown; for parts and classes see `prior_weights`.
    """
    rows = evenly_spaced(LEARNT_ON, len(features))
    values, labels = torch.from_numpy(features[rows]).float(), labels[rows]
    distances = torch.stack([squared_distances(values[:, a:b], values[:, a:b]) for *_, a, b in parts])
    unlisted = np.array([regions is None for regions in classes])
    prior = prior_weights(parts, classes)
    learnt = _learn(distances, labels, parts, prior, unlisted)
    if not unlisted.any():
        return learnt
    candidates = [prior_weights(parts, [()] * int(unlisted.sum())), prior[unlisted], learnt[unlisted]]
    errors = np.zeros(len(candidates))
    every, own = np.arange(len(rows)), labels[:, unlisted]
    for fold in draw_folds(len(rows))[0][::2]:
        rest = np.setdiff1d(every, fold)
        inner = distances[:, rest][:, :, rest]
        candidates[2] = _learn(inner, labels[rest], parts, prior, unlisted)[unlisted]
        errors += [_error(distances, own, rest, fold, weights) for weights in candidates]
    candidates[2] = learnt[unlisted]
    learnt[unlisted] = candidates[int(np.argmin(errors))]
    return learnt


def _learn(
    distances: Tensor,
    labels: NDArray[np.int8],
    parts: Sequence[Part],
    prior: NDArray[np.float64],
    unlisted: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """The weights that predict faces left out best, by distances of each part, float32 (B, N, N).

    Regions are learnt of the attributes that are `unlisted`, bool (A,).
    """
    names = sorted({(block, region < 0) for block, region, _, _ in parts})
    kinds = [names.index((block, region < 0)) for block, region, _, _ in parts]
    regions = torch.tensor([region for _, region, _, _ in parts])
    targets, known = _targets(labels)
    # Attributes with equal weights share a kernel; a one-valued attribute says nothing about any.
    varied = np.flatnonzero(targets.square().sum(0).numpy() > 0)
    own = np.where(unlisted, np.arange(len(prior)), -1.0)
    groups = [varied[same].tolist() for same in equal_rows(np.column_stack([prior, own])[varied])]
    if not groups:
        return prior.copy()
    first = [group[0] for group in groups]
    base, free = torch.from_numpy(prior[first]), torch.from_numpy(unlisted[first])
    of_kinds = torch.zeros(len(names), dtype=torch.double, requires_grad=True)
    of_regions = torch.zeros(len(first), NUM_CLASSES, dtype=torch.double, requires_grad=True)

    def weights(base: Tensor, own: Tensor) -> Tensor:
        shifts = of_kinds[kinds] + torch.where(regions >= 0, own[:, regions.clamp(min=0)], 0.0)
        weighed = base * shifts.exp()
        return weighed / weighed.sum(dim=1, keepdim=True)

    def loss() -> Tensor:
        total = (OF_KINDS * of_kinds.square().sum() + OF_REGIONS * of_regions.square().sum()) / 2
        kernels = _kernels(distances, weights(base, of_regions * free[:, None]))
        for kernel, group in zip(kernels, groups, strict=True):
            system = kernel + FIRST_PENALTY * torch.eye(len(kernel), dtype=torch.double)
            inverse = torch.cholesky_inverse(torch.linalg.cholesky(system))
            residuals = inverse @ targets[:, group] / inverse.diagonal()[:, None]  # each without its face
            count = known[:, group].sum(0)
            left_out = (residuals.square() * known[:, group]).sum(0) / count.clamp(min=1) + MIN_ERROR
            total = total + (count / 2 * left_out.log()).sum()
        return total

    minimise([of_kinds, of_regions], loss, iterations=15)
    with torch.no_grad():
        own_of = torch.zeros(len(prior), NUM_CLASSES, dtype=torch.double)
        for group, row in zip(groups, of_regions * free[:, None], strict=True):
            own_of[group] = row
        return weights(torch.from_numpy(prior), own_of).numpy()


def _targets(labels: NDArray[np.int8]) -> tuple[Tensor, Tensor]:
    """Centred labels, float64 (N, A), 0 where they are unknown or all alike, and which are known."""
    known = torch.from_numpy(labels >= 0)
    shares = torch.from_numpy((labels == 1).sum(0) / np.maximum((labels >= 0).sum(0), 1))
    return torch.where(known, torch.from_numpy(labels).double() - shares, 0.0), known


def _kernels(distances: Tensor, weights: Tensor) -> Tensor:
    """The kernels, float64 (G, N, M), of parts' distances, (B, N, M), by G rows of weights, (G, B)."""
    summed = weights.float() @ distances.flatten(1)
    return kernel_of(summed.clamp(min=1e-9)).unflatten(1, distances.shape[1:]) + BIAS


def _error(
    distances: Tensor,
    labels: NDArray[np.int8],
    rest: NDArray[np.int64],
    fold: NDArray[np.int64],
    weights: NDArray[np.float64],
) -> float:
    """The summed squared error of a fold's faces, in shares of the variance, by a regression on the rest."""
    targets, known = _targets(labels)
    kernels = _kernels(distances[:, :, rest], torch.from_numpy(weights))
    error = 0.0
    for column, kernel in enumerate(kernels):
        system = kernel[rest] + FIRST_PENALTY * torch.eye(len(rest), dtype=torch.double)
        predicted = kernel[fold] @ torch.linalg.solve(system, targets[rest, column])
        missed = ((predicted - targets[fold, column]).square() * known[fold, column]).sum()
        error += float(missed / targets[:, column].square().mean().clamp(min=MIN_ERROR))
    return error
