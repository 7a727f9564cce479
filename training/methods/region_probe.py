"""Fitting the region probe: kernel regression that compares the regions of the face which show an attribute.

An attribute such as Narrow_Eyes shows in a few regions of the face, and which these are is known before any
label is. The regression predicts 0 and 1; its predictions for each face by all the others have a closed
form, from which the penalty and the scale of the logits can be chosen without val. They are also what a
second regression compares faces by, beside the features (stacked generalisation, Wolpert 1992): attributes
go together, and the first regression sees one at a time.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from common.pipeline_config import Stream
from common.sampling import evenly_spaced
from training.data.samples import Samples
from training.engine.average_precision import mean_average_precision
from training.finetune.probe import ProbeResult, standardisation
from training.models.attribute_regions import Regions, region_classes
from training.models.probe import read_features, whole_face_features
from training.models.region_probe import RegionKernels, RegionProbe

PENALTIES: Final = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Candidates of the penalty of the squared weights; the kernel of a face with itself is 1."""

WITHOUT_SELECTION: Final = 0.1
"""Also of the first regression."""

FACES_OF_HALF: Final = 1500
"""With so many labelled faces the first regression's predictions have half of the squared distance; with n,
n / (n + 1500). See docs/method.md."""

REFERENCES: Final = 2000
"""At most so many of the labelled faces are what all others are compared with (Nyström's approximation,
Williams and Seeger 2001); with fewer labels the regression is exact."""

LEFT_OUT: Final = 2000
"""At most so many faces are left out in turn, for the logits' scale."""

STANDARDISED_ON: Final = 2000
"""At most so many faces, with labels or without, give the mean and deviation of the features."""

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


def ridge(
    features: Tensor,
    targets: Tensor,
    penalties: Sequence[float],
    rows: Tensor,
) -> list[Ridge]:
    """Minimise the squared error plus each of the `penalties` times the squared weights; the bias is free.

    Solved in the smaller of the spaces of faces and of features. With the hat matrix H, the prediction for
    a face that was left out is y - (y - prediction) / (1 - H_ii).

    Args:
        features: float64 (N, D). targets: float64 (N, A).
        penalties: above 0.
        rows: int64 (R,), the faces for which `Ridge.left_out` is computed.
    """
    mean, base = features.mean(0), targets.mean(0)
    centred, deviations, count = features - mean, targets - base, len(features)
    by_face = count <= centred.shape[1]
    if by_face:
        products = centred @ centred.T
    else:
        products, moments = centred.T @ centred, centred.T @ deviations
    solutions = []
    for penalty in penalties:
        penalised = products.clone()
        penalised.diagonal().add_(penalty)
        factor = torch.linalg.cholesky(penalised)
        if by_face:
            inverse = torch.cholesky_inverse(factor)
            weights = centred.T @ (inverse @ deviations)
            remaining = penalty * inverse.diagonal()[rows]
        else:
            weights = torch.cholesky_solve(moments, factor)
            solved = torch.linalg.solve_triangular(factor, centred[rows].T, upper=False)
            remaining = 1 - solved.square().sum(0)
        residuals = deviations[rows] - centred[rows] @ weights
        left_out = targets[rows] - residuals / (remaining - 1 / count).clamp(min=1e-6)[:, None]
        solutions.append(Ridge(weights, base - mean @ weights, left_out))
    return solutions


def fit_region_probe(
    train: Samples,
    unlabelled: Samples,
    val: Samples,
    stream: Stream,
    regions: Regions,
    select: Literal["val", "crossval", "last"],
) -> tuple[RegionProbe, ProbeResult]:
    """Fit one regression per attribute on features of the whole face and of its regions.

    Args:
        train: labelled samples.
        unlabelled: samples on which features are standardised.
        val: labelled samples that choose the penalty with `select` ``val``.
        stream: the cache of remote shards.
        regions: names of regions by attribute.
        select: ``crossval`` chooses the penalty by the faces that are left out; ``last`` takes 0.1.
    """
    started = time.monotonic()
    whole = whole_face_features(train)
    standard = unlabelled.take(evenly_spaced(STANDARDISED_ON, len(unlabelled)))
    mean, scale = standardisation(read_features(standard, "regions", stream))
    features = (read_features(train, "regions", stream) - mean) * scale
    references = evenly_spaced(REFERENCES, len(train))
    classes = tuple(region_classes(train.attribute_names, regions))
    of_references = features[references].astype(np.float32)
    kernels = RegionKernels(features, of_references, whole)
    everyone = np.arange(len(train))
    (first,) = fit_attributes(kernels, train.attributes, references, classes, (WITHOUT_SELECTION,), everyone)
    prediction_mean, prediction_scale = standardisation(first.left_out)
    predictions = (first.left_out - prediction_mean) * prediction_scale
    share = len(train) / (len(train) + FACES_OF_HALF)
    reference_predictions = predictions[references].astype(np.float32)
    kernels = kernels.stacked(predictions, reference_predictions, share)
    rows = evenly_spaced(LEFT_OUT, len(train))
    penalties = (WITHOUT_SELECTION,) if select == "last" else PENALTIES
    fits = fit_attributes(kernels, train.attributes, references, classes, penalties, rows)
    probe = RegionProbe(
        train.attribute_names,
        "regions",
        mean,
        scale,
        fits[0].weights,
        fits[0].biases,
        whole,
        of_references,
        classes,
        first.weights,
        first.biases,
        prediction_mean,
        prediction_scale,
        reference_predictions,
        share,
    )
    by_val = select == "val" and len(val) > 0
    if by_val:
        sums = probe.kernels(read_features(val, "regions", stream)).sums(
            classes, [fit.weights for fit in fits]
        )
        labels, scored = val.attributes, [on_val + fit.biases for on_val, fit in zip(sums, fits, strict=True)]
    else:
        labels, scored = train.attributes[rows], [fit.left_out for fit in fits]
    scores = [mean_average_precision(labels, predicted) or 0.0 for predicted in scored]
    best = int(np.argmax(scores))
    slopes, offsets, loss = calibrate(fits[best].left_out, train.attributes[rows])
    weights, biases = fits[best].weights * slopes, fits[best].biases * slopes + offsets
    probe = replace(probe, weights=weights, biases=biases)
    seconds = round(time.monotonic() - started, 1)
    on_faces = round(scores[best], 4) if by_val else None
    return probe, ProbeResult(seconds, round(loss, 4), penalties[best], len(val) if by_val else 0, on_faces)


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
