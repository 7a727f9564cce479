"""Heads that start as the solution of a regression on what the trained network computes already.

Random heads send random gradients into trained branches until they are learnt (linear probing before
fine-tuning, Kumar et al. 2022). Each branch's head is the L2-regularised logistic regression on its pooled
features instead, with batch-norm statistics of all train faces.
"""

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.swa_utils import update_bn

from common.sampling import evenly_spaced
from training.data.loader import Batch, BrokenSamples, load
from training.data.sampler import sequential_batches
from training.data.samples import Samples
from training.data.transforms import to_input
from training.engine.average_precision import mean_average_precision
from training.engine.device import autocast
from training.methods.method import BATCH_SIZE, Context
from training.methods.probe import STRENGTHS, WITHOUT_VAL, logistic_regressions, standardisation
from training.models.attribute_network import AttributeNetwork

LABELLED: Final = 2000
"""At most so many labelled faces are regressed on; the training that follows sees all of them."""

STANDARDISED_ON: Final = 640
"""At most so many faces give the batch-norm statistics and the mean and deviation of the features."""


def solve_heads(context: Context, model: AttributeNetwork, labelled: Samples) -> None:
    """Set the weights and biases of all heads, and the running statistics of batch norm.

    With ``finetune.select`` ``val``, val chooses the strength of all regressions together.

    Args:
        context: of the run.
        model: with a trained network; moved to the device of the run.
        labelled: the samples whose labels are used.

    Raises:
        UserError: more samples are broken than ``stream.max_broken``; others take the place of these.
    """
    config, device, val = context.config, context.ranks.device, context.val
    model.to(device).to(memory_format=torch.channels_last)
    broken = BrokenSamples(config.stream.max_broken)

    def batches_of(samples: Samples) -> Iterator[Batch]:
        batches, workers = sequential_batches(samples, BATCH_SIZE), config.trainer.loader_workers
        return load(samples, batches, {"jpg"}, workers, config.stream, broken)

    def inputs(images: Tensor) -> Tensor:
        return to_input(images.to(device), model.config.input_size)

    @torch.no_grad()
    def pooled(images: Tensor) -> dict[str, Tensor]:
        with autocast(device, config.trainer.precision):
            return model.pooled(inputs(images))

    every_face = context.all_faces
    reference = every_face.take(evenly_spaced(STANDARDISED_ON, len(every_face)))
    with autocast(device, config.trainer.precision):
        update_bn((inputs(batch.images) for batch in batches_of(reference)), model)
    training = model.training
    model.eval()
    of_reference = _joined(pooled(batch.images) for batch in batches_of(reference))
    train = labelled.take(evenly_spaced(LABELLED, len(labelled)))
    # Others take the place of broken ones, so the labels are those of the faces that were read.
    indices, read = [], []
    for batch in batches_of(train):
        indices.append(batch.indices)
        read.append(pooled(batch.images))
    of_train, labels = _joined(read), train.attributes[torch.cat(indices).numpy()]
    by_val = len(val) > 0
    of_val = _joined(pooled(batch.images) for batch in context.val_batches) if by_val else {}
    model.train(training)

    strengths = STRENGTHS if by_val else (WITHOUT_VAL,)
    solutions = {
        branch: _regressions(of_train[branch], labels[:, group], of_reference[branch], strengths)
        for branch, group in model.groups.items()
    }

    def score(number: int) -> float:
        logits = np.empty(val.attributes.shape)
        for branch, group in model.groups.items():
            weights, biases = solutions[branch][number]
            logits[:, group] = of_val[branch] @ weights + biases
        return mean_average_precision(val.attributes, logits) or 0.0

    best = max(range(len(strengths)), key=score) if by_val else 0
    for branch, head in model.heads.items():
        weights, biases = solutions[branch][best]
        head.load_state_dict({"weight": torch.from_numpy(weights.T), "bias": torch.from_numpy(biases)})


def _joined(batches: Iterable[dict[str, Tensor]]) -> dict[str, NDArray[np.float64]]:
    """The pooled features of all faces, float64 (N, C), by branch."""
    listed = list(batches)
    return {name: torch.cat([each[name] for each in listed]).double().cpu().numpy() for name in listed[0]}


def _regressions(
    features: NDArray[np.float64],
    labels: NDArray[np.int8],
    reference: NDArray[np.float64],
    strengths: tuple[float, ...],
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """For each strength, weights (C, A) and biases (A,) on features as they are, (N, C).

    They are fitted on features standardised by those of the faces of `reference`, (M, C).
    """
    mean, scale = standardisation(reference)
    fits = logistic_regressions((features - mean) * scale, labels, strengths)
    return [(weights * scale[:, None], biases - (mean * scale) @ weights) for _, weights, biases, _ in fits]
