"""Two levels of ridge regression on the kernels of the region probe, chosen by faces that neither level saw.

The second level compares faces by the first one's predictions too (stacked generalisation, Wolpert 1992).
It must be trained on predictions of faces that the first left out, and judged on whole folds that both left
out: for each fold, the first level's left-out predictions of all other faces are those without that fold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.sampling import evenly_spaced
from training.methods.calibration import draw_folds
from training.models.probe import Kernels, equal_rows

FIRST_PENALTY: Final = 0.1  # Of the squared weights of the first level; the kernel of a face with itself is 1
PENALTIES: Final = (0.3, 1.0, 3.0)  # Candidates of the second level
# With so many labelled faces the first level's predictions have half of the squared distance; with n,
# n / (n + 1500). See docs/method.md.
FACES_OF_HALF: Final = 1500
# At most so many of the labelled faces are what all others are compared with (Nyström's approximation,
# Williams and Seeger 2001); with fewer labels the regression is exact.
REFERENCES: Final = 2000
BIAS: Final = 10.0  # Added to the kernel of exact regressions: an intercept that is hardly penalised
# Faces whose kernels with the references are in memory at once, beyond `REFERENCES` labelled faces.
BATCH: Final = 1024
# Of the mean diagonal of the squared kernel, added to it: equal references make it singular, and rounding in
# float32 moves its eigenvalues by up to 1e-6 of this mean for thousands of faces.
JITTER: Final = 1e-5
Solution = tuple[Tensor, Tensor]  # Weights (R, A) of the references and biases (A,), float64


@dataclass(frozen=True)
class Regressions:
    """Both levels for A attributes, and what they say of faces that they left out, as labels 0 and 1."""

    levels: dict[str, Any]  # the fields of `training.models.probe.RegionProbe` that the two make, by name
    # float64 (L, A), predictions of the labelled faces in `seen` by both levels without their fold.
    left_out: NDArray[np.float64]
    # int64 (L,); all labelled faces if they are at most `REFERENCES`, else those of one fold.
    seen: NDArray[np.int64]
    penalty: float  # of the second level
    # Squared error of the faces left out over that of the shares of positives, mean over attributes.
    error: float


def fit_regressions(
    features: Tensor,
    labels: NDArray[np.int8],
    columns: Sequence[tuple[int, int]],
    block_weights: NDArray[np.float64],
) -> Regressions:
    """Fit both levels.

    Args:
        features: float32 or float16 (N, D), standardised, of two labelled faces or more.
        labels: int8 (N, A), 0 or 1, -1 where unknown. An attribute with fewer than two known labels is
            predicted by its share of positives, shrunken to one half.
        columns, block_weights: see `training.models.probe.RegionProbe`.
    """
    count = len(features)
    references = torch.from_numpy(evenly_spaced(REFERENCES, count))
    known = torch.from_numpy(labels >= 0)
    known &= known.sum(0) > 1
    base = torch.from_numpy(((labels == 1).sum(0) + 0.5) / ((labels >= 0).sum(0) + 1))
    targets = torch.where(known, torch.from_numpy(labels).double() - base, 0.0)
    folds, tried = ([torch.from_numpy(fold) for fold in each] for each in draw_folds(count))
    kernels = Kernels(features, features[references], columns, block_weights)

    first = _FirstLevel(kernels, references, folds, len(tried), targets)
    for group, attributes in enumerate(kernels.groups):
        for positions in equal_rows(known[:, attributes].T.numpy()):  # labels are known of the same faces
            same = [attributes[position] for position in positions]
            rows = known[:, same[0]].nonzero()[:, 0]
            if len(rows):
                (first.fit if count <= REFERENCES else first.approximate)(group, rows, same)

    share, trials, seen = count / (count + FACES_OF_HALF), [], torch.cat(tried)
    for fold, inner in zip(tried, first.without, strict=True):
        rest = torch.from_numpy(np.setdiff1d(np.arange(count), fold.numpy()))
        standard = (inner - inner[rest].mean(0)) / inner[rest].std(0, correction=0).clamp(min=1e-6)
        stacked = kernels.stacked(standard, standard[references], share)
        # An unknown label is taken to be as the first level predicts it.
        wanted = torch.where(known, targets, inner)
        trials.append(_fit_second(stacked, references, rest, wanted, PENALTIES, fold)[1])
    left_out = torch.cat(trials, dim=1)
    errors = [_error(each, targets[seen], known[seen]) for each in left_out]
    best = int(np.argmin(errors))

    mean, scale = first.left_out.mean(0), 1 / first.left_out.std(0, correction=0).clamp(min=1e-6)
    standard = (first.left_out - mean) * scale
    stacked = kernels.stacked(standard, standard[references], share)
    wanted = torch.where(known, targets, first.left_out)
    every, none, chosen = torch.arange(count), torch.arange(0), PENALTIES[best : best + 1]
    ((weights, biases),) = _fit_second(stacked, references, every, wanted, chosen, none)[0]
    levels = {
        "weights": weights,
        "biases": biases + base,
        "references": features[references].float(),
        "first_weights": first.weights,
        "first_biases": first.biases + base,
        "prediction_mean": mean + base,
        "prediction_scale": scale,
        "reference_predictions": standard[references].float(),
    }
    return Regressions(
        levels={name: value.numpy() for name, value in levels.items()} | {"prediction_share": share},
        left_out=(left_out[best] + base).numpy(),
        seen=seen.numpy(),
        penalty=PENALTIES[best],
        error=errors[best],
    )


def _error(predicted: Tensor, targets: Tensor, known: Tensor) -> float:
    """See `Regressions.error`; 1 says that nothing is known."""
    error = torch.where(known, predicted - targets, 0.0).square().sum(0)
    variance = targets.square().sum(0)
    both = variance > 0.5
    return float((error[both] / variance[both]).mean()) if both.any() else 1.0


class _FirstLevel:
    """Solution, predictions of faces left out, (N, A), and the same `without` each of some folds as well.

    The first `tried` of the folds are left out in turn; targets, float64 (N, A), are centred labels.
    """

    def __init__(
        self, kernels: Kernels, references: Tensor, folds: list[Tensor], tried: int, targets: Tensor
    ) -> None:
        self._kernels, self._references, self._folds, self._targets = kernels, references, folds, targets
        faces, attributes = targets.shape
        self.weights = torch.zeros(len(references), attributes, dtype=torch.double)
        self.biases = torch.zeros(attributes, dtype=torch.double)
        self.left_out, *self.without = torch.zeros(1 + tried, faces, attributes, dtype=torch.double)

    def fit(self, group: int, rows: Tensor, columns: list[int]) -> None:
        """Where all faces are references, everything follows from one inverse G = (K + bias + penalty)^-1.

        With a = G y, the prediction for a fold f without it is y_f - G_ff^-1 a_f, and that for another face j
        without itself and f is y_j - (a - G_.f G_ff^-1 a_f)_j / (G_jj - G_jf G_ff^-1 G_fj). The labels of the
        `columns`, attributes of the kernels' `group`, are known of the faces in `rows`.
        """
        biased, y = self._kernels(group)[:, rows] + BIAS, self._targets[:, columns][rows]
        system = biased[rows]
        system.diagonal().add_(FIRST_PENALTY)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(system))
        weights, diagonal = inverse @ y, inverse.diagonal()
        predicted = biased @ weights
        predicted[rows] = y - weights / diagonal[:, None]
        self.left_out[:, columns] = predicted
        self.weights[rows[:, None], columns] = weights
        self.biases[columns] = BIAS * weights.sum(0)
        for fold, without in zip(self._folds, self.without, strict=True):
            own = torch.isin(rows, fold).nonzero()[:, 0]
            factor = torch.linalg.cholesky(inverse[own][:, own])
            residual = torch.cholesky_solve(weights[own], factor)
            reach = torch.linalg.solve_triangular(factor, inverse[own], upper=False)
            rest = weights - inverse[:, own] @ residual
            rest[own] = 0.0
            predicted = biased @ rest
            predicted[rows] = y - rest / (diagonal - reach.square().sum(0)).clamp(min=1e-9)[:, None]
            predicted[rows[own]] = y[own] - residual
            without[:, columns] = predicted

    def approximate(self, group: int, rows: Tensor, columns: list[int]) -> None:
        """As `fit`, where some faces stand for all: from sums of each fold, and with one outer fold."""
        kernels, y = self._kernels, self._targets[:, columns]
        among = kernels(group, self._references)
        sums = [_sums(kernels, group, fold[torch.isin(fold, rows)], y) for fold in self._folds]
        for inner, fold in enumerate(self._folds):
            solutions = [
                _solve([each for i, each in enumerate(sums) if i not in (inner, outer)], among, FIRST_PENALTY)
                for outer in (inner, 0)
            ]
            weights, biases = zip(*solutions, strict=True)
            predicted = _predict(kernels, group, fold, (torch.cat(weights, 1), torch.cat(biases)))
            cells = fold[:, None], columns
            self.left_out[cells], self.without[0][cells] = predicted.chunk(2, dim=1)
        self.weights[:, columns], self.biases[columns] = _solve(sums, among, FIRST_PENALTY)


def _fit_second(
    kernels: Kernels, references: Tensor, rows: Tensor, y: Tensor, penalties: Sequence[float], held: Tensor
) -> tuple[list[Solution], Tensor]:
    """The second level on the faces in `rows`, with each penalty, and its predictions of those in `held`.

    Gives a solution per penalty, and float64 (P, H, A), of centred labels y, (N, A).
    """
    attributes, exact = y.shape[1], len(references) == len(y)
    weights = torch.zeros(len(penalties), len(references), attributes, dtype=torch.double)
    biases = torch.zeros(len(penalties), attributes, dtype=torch.double)
    predicted = torch.zeros(len(penalties), len(held), attributes, dtype=torch.double)
    for group, columns in enumerate(kernels.groups):
        among = kernels(group, rows if exact else references)
        sums = [] if exact else [_sums(kernels, group, rows, y[:, columns])]
        for number, penalty in enumerate(penalties):
            if exact:
                system = among[:, rows] + BIAS
                system.diagonal().add_(penalty)
                solved = torch.cholesky_solve(y[rows][:, columns], torch.linalg.cholesky(system))
                weights[number][rows[:, None], columns] = solved
                biases[number, columns] = BIAS * solved.sum(0)
            else:
                weights[number][:, columns], biases[number, columns] = _solve(sums, among, penalty)
        joined = weights[:, :, columns].permute(1, 0, 2).flatten(1), biases[:, columns].flatten()
        of_held = _predict(kernels, group, held, joined).unflatten(1, (len(penalties), len(columns)))
        predicted[:, :, columns] = of_held.permute(1, 0, 2)
    return list(zip(weights, biases, strict=True)), predicted


def _predict(kernels: Kernels, group: int, rows: Tensor, solution: Solution) -> Tensor:
    """Predictions (N, A) for some faces."""
    batches = [kernels(group, batch) @ solution[0] + solution[1] for batch in rows.split(BATCH)]
    return torch.cat(batches)


_Sums = tuple[Tensor, Tensor, Tensor, Tensor, int]


def _sums(kernels: Kernels, group: int, rows: Tensor, y: Tensor) -> _Sums:
    """Sums over faces of products of their kernels, with their targets, of both, and the number of faces."""
    total: list[Tensor] = []
    for batch in rows.split(BATCH):
        kernel, of_batch = kernels(group, batch), y[batch]
        gram = (kernel.float().T @ kernel.float()).double()
        parts = [gram, kernel.T @ of_batch, kernel.sum(0), of_batch.sum(0)]
        total = [sum_.add_(part) for sum_, part in zip(total, parts, strict=True)] if total else parts
    gram, products, inputs, outputs = total
    return gram, products, inputs, outputs, len(rows)


def _solve(sums: Sequence[_Sums], among: Tensor, penalty: float) -> Solution:
    """Minimises the squared error plus the penalty times w^T `among` w, the kernel of the references."""
    gram, products, inputs, outputs, count = (sum(each) for each in zip(*sums, strict=True))
    count = max(count, 1)
    system = gram - torch.outer(inputs, inputs) / count + penalty * among
    system.diagonal().add_(JITTER * float(gram.diagonal().mean()))
    weights = torch.cholesky_solve(
        products - torch.outer(inputs, outputs) / count, torch.linalg.cholesky(system)
    )
    return weights, (outputs - inputs @ weights) / count
