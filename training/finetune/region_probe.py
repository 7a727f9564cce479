"""Fitting the region probe: ridge regression that trusts the features of an attribute's own regions most.

An attribute such as Narrow_Eyes shows in a few regions of the face, and which these are is known before any
label is. Features of these regions are scaled up, so that the penalty of the squared weights leaves them
larger weights than all others. The regression predicts 0 and 1; its predictions for each face by all the
others have a closed form, from which the strength and the scale of the logits can be chosen without val.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from common.classes import NUM_CLASSES
from common.pipeline_config import Stream
from common.sampling import evenly_spaced
from training.data.samples import Samples
from training.engine.average_precision import mean_average_precision
from training.finetune.probe import ProbeResult
from training.models.attribute_regions import Regions, region_classes
from training.models.probe import Probe, read_features, region_of_columns, whole_face_features
from training.models.region_statistics import STATISTICS

REGION_SHARE: Final = 0.7
"""Share of the attribute's regions in the squared norm of a face's features; see docs/method.md."""

PENALTIES: Final = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Candidates of the penalty of the squared weights, where the mean squared norm of a face's features is 1."""

WITHOUT_SELECTION: Final = 1.0

LEFT_OUT: Final = 2000
"""At most so many faces are left out in turn, for the logits' scale; with more features than faces, they cost
nothing, otherwise as much as the regressions themselves."""

STANDARDISED_ON: Final = 2000
"""At most so many faces, with labels or without, give the mean and deviation of the features."""

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
    gram: Tensor | None = None,
) -> list[Ridge]:
    """Minimise the squared error plus each of the `penalties` times the squared weights; the bias is free.

    Solved in the smaller of the spaces of faces and of features. With the hat matrix H, the prediction for
    a face that was left out is y - (y - prediction) / (1 - H_ii).

    Args:
        features: float64 (N, D). targets: float64 (N, A).
        penalties: above 0.
        rows: int64 (R,), the faces for which `Ridge.left_out` is computed.
        gram: float64 (D, D), the products of centred features, where they are known already.
    """
    mean, base = features.mean(0), targets.mean(0)
    centred, deviations, count = features - mean, targets - base, len(features)
    by_face = count <= centred.shape[1]
    if by_face:
        products = centred @ centred.T
    else:
        products, moments = centred.T @ centred if gram is None else gram, centred.T @ deviations
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
) -> tuple[Probe, ProbeResult]:
    """Fit one regression per attribute on features of the whole face and of its regions.

    Args:
        train: labelled samples.
        unlabelled: samples on which features are standardised.
        val: labelled samples that choose the penalty with `select` ``val``.
        stream: the cache of remote shards.
        regions: names of regions by attribute.
        select: ``crossval`` chooses the penalty by the faces that are left out; ``last`` takes 1.
    """
    started = time.monotonic()
    whole = whole_face_features(train)
    reference = read_features(
        unlabelled.take(evenly_spaced(STANDARDISED_ON, len(unlabelled))), "regions", stream
    )
    mean, deviation = reference.mean(axis=0), reference.std(axis=0)
    scale = np.where(deviation > 1e-6, 1 / np.maximum(deviation, 1e-6), 0.0)
    features = (read_features(train, "regions", stream) - mean) * scale
    by_val = select == "val" and len(val) > 0
    on_val = (read_features(val, "regions", stream) - mean) * scale if by_val else np.empty((0, len(mean)))
    columns = region_of_columns(whole, len(mean))
    scales = [column_scales(columns, classes) for classes in region_classes(train.attribute_names, regions)]
    rows, by_left_out = evenly_spaced(LEFT_OUT, len(train)), select != "last" and not by_val
    selecting = rows if by_left_out else rows[:0]
    penalties = (WITHOUT_SELECTION,) if select == "last" else PENALTIES
    best: tuple[float, float] | None = None
    for penalty, fit in zip(
        penalties, fit_attributes(features, train.attributes, scales, penalties, selecting), strict=True
    ):
        if by_val:
            score = mean_average_precision(val.attributes, on_val @ fit.weights + fit.biases) or 0.0
        elif by_left_out:
            score = mean_average_precision(train.attributes[rows], fit.left_out) or 0.0
        else:
            score = 0.0
        if best is None or score > best[0]:
            best = score, penalty
    assert best is not None  # there is at least one penalty
    score, penalty = best
    (chosen,) = fit_attributes(features, train.attributes, scales, (penalty,), rows)
    slopes, offsets, loss = calibrate(chosen.left_out, train.attributes[rows])
    weights, biases = chosen.weights * slopes, chosen.biases * slopes + offsets
    probe = Probe(train.attribute_names, "regions", mean, scale, weights, biases)
    seconds = round(time.monotonic() - started, 1)
    on_faces = round(score, 4) if by_val else None
    return probe, ProbeResult(seconds, round(loss, 4), penalty, len(on_val), on_faces)


def column_scales(columns: NDArray[np.int64], classes: tuple[int, ...]) -> NDArray[np.float64]:
    """Factors of standardised features, float64 (D,); the squared norm of a face is 1 on average.

    Args:
        columns: the class that each feature describes, -1 for the whole face, see `region_of_columns`;
            its last 11 per class are statistics.
        classes: of the attribute's regions; without any, the statistics are not used.
    """
    statistics = np.arange(len(columns)) >= len(columns) - STATISTICS * NUM_CLASSES
    of_region = np.isin(columns, classes)
    blocks = [block for block in (of_region & ~statistics, of_region & statistics) if block.any()]
    squared = np.where(statistics, 0.0, (1 - REGION_SHARE if blocks else 1.0) / (~statistics).sum())
    for block in blocks:
        squared[block] += REGION_SHARE / len(blocks) / block.sum()
    return np.sqrt(squared)


@dataclass(frozen=True)
class Fit:
    """The regressions of all attributes with one penalty.

    Attributes:
        weights: float64 (D, A). biases: float64 (A,).
        left_out: float64 (R, A), predictions for faces that were left out, NaN where a label is unknown.
    """

    weights: NDArray[np.float64]
    biases: NDArray[np.float64]
    left_out: NDArray[np.float64]


def fit_attributes(
    features: NDArray[np.float64],
    labels: NDArray[np.int8],
    scales: list[NDArray[np.float64]],
    penalties: Sequence[float],
    rows: NDArray[np.int64],
) -> list[Fit]:
    """A regression per attribute, for each penalty.

    An attribute with fewer than two known labels predicts its share of positives.

    Args:
        features: float64 (N, D).
        labels: int8 (N, A), 0 or 1, -1 where unknown.
        scales: float64 (D,) for each attribute, see `column_scales`.
        penalties: of the squared weights.
        rows: int64 (R,), the faces that are left out in turn.
    """
    share = ((labels == 1).sum(0) + 0.5) / ((labels >= 0).sum(0) + 1)
    fits = [
        Fit(
            np.zeros((features.shape[1], len(scales))),
            share.copy(),
            np.where(labels[rows] >= 0, share, np.nan),
        )
        for _ in penalties
    ]
    together: dict[tuple[bytes, bytes], list[int]] = {}
    for attribute, scale in enumerate(scales):
        together.setdefault((scale.tobytes(), (labels[:, attribute] >= 0).tobytes()), []).append(attribute)
    grams: dict[bytes, NDArray[np.float64]] = {}
    for (_, known_key), attributes in together.items():
        scale, known = scales[attributes[0]], np.flatnonzero(labels[:, attributes[0]] >= 0)
        if len(known) < 2:
            continue
        used, targets_of = np.flatnonzero(scale), np.array(attributes)
        gram = None
        if len(known) > len(used):
            # The products of all columns, once for all attributes with these labels: they differ in scale.
            if known_key not in grams:
                centred = features[known] - features[known].mean(0)
                grams[known_key] = centred.T @ centred
            scaled = grams[known_key][np.ix_(used, used)] * np.outer(scale[used], scale[used])
            gram = torch.from_numpy(scaled)
        inputs = torch.from_numpy(features[np.ix_(known, used)] * scale[used])
        targets = torch.from_numpy(labels[np.ix_(known, targets_of)].astype(np.float64))
        of_known = np.flatnonzero(np.isin(rows, known))
        among_known = torch.from_numpy(np.searchsorted(known, rows[of_known]))
        for fit, solution in zip(fits, ridge(inputs, targets, penalties, among_known, gram), strict=True):
            fit.weights[np.ix_(used, targets_of)] = scale[used, None] * solution.weights.numpy()
            fit.biases[attributes] = solution.biases.numpy()
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
