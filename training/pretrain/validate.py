"""How well stage 1 solves its tasks on faces of the val split, with draws that never change."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score
from torch import Tensor

from common.config import Config
from common.layout import Layout
from common.sampling import evenly_spaced
from training.data.loader import Batch, load
from training.data.samples import Samples, read_samples
from training.engine.batch_norm import batch_statistics
from training.engine.device import autocast
from training.engine.seeds import seed_micro_batch
from training.pretrain.model import Labels, Outputs, PretrainModel, make_labels, members
from training.pretrain.tasks.class_sets import CLASS_SETS
from training.pretrain.tasks.segmentation import upsample

LEAST_FACES = 2
"""Batch normalisation needs two."""


def validation_faces(config: Config, layout: Layout) -> Samples | None:
    """At most ``validate_samples`` faces of the val split, evenly spread; None if there are too few."""
    faces = read_samples(layout, ("val",))
    count = min(len(faces), config.pretrain.validate_samples)
    if count < LEAST_FACES:
        return None
    return faces.take(evenly_spaced(count, len(faces)))


def answers(
    model: PretrainModel, faces: Samples, config: Config, device: torch.device
) -> Iterator[tuple[Batch, Labels, Outputs]]:
    """Labels and answers of `model`, batch by batch, the same draws whenever it is asked.

    Batches differ by one face at most in size and hold at least ``batch_size`` faces if there are so
    many, so that none is too small for its statistics.
    """
    settings = config.pretrain
    parts = np.array_split(np.arange(len(faces)), max(1, len(faces) // settings.batch_size))
    planned = [part.tolist() for part in parts]
    loader = load(faces, planned, members(settings) | {"mask.png"}, settings.loader_workers, config.stream)
    for number, batch in enumerate(loader):
        batch = batch.to(device)
        labels = make_labels(batch, config, seed_micro_batch(settings.seed, -1, number))
        with batch_statistics(model), autocast(device, settings.precision):
            outputs = model(labels.patches, labels.turned.tiles)
        yield batch, labels, outputs


def validate(model: PretrainModel, faces: Samples, config: Config, device: torch.device) -> dict[str, float]:
    """Scores by name, 0 to 1, of every task that has a weight.

    ``pixel_accuracy`` and ``mean_iou`` (over the classes that the masks have) of the segmentation,
    ``average_precision`` of the classification (mean over the classes that are both present and
    absent somewhere), ``tile_accuracy`` and ``angle_accuracy``.
    """
    classes = CLASS_SETS[config.pretrain.classes]
    count = len(classes.names)
    confusion = torch.zeros(count * count, dtype=torch.int64)
    truths, scores = [], []
    right: dict[str, list[Tensor]] = {"tile_accuracy": [], "angle_accuracy": []}
    for _, labels, outputs in answers(model, faces, config, device):
        if outputs.segmentation.numel():
            predicted = upsample(outputs.segmentation, labels.masks.shape[-1]).argmax(1)
            pairs = (labels.masks * count + predicted).flatten().cpu()
            confusion += torch.bincount(pairs, minlength=count * count)
        if outputs.classification:
            truths.append(labels.parts.cpu().numpy())
            scores.append(part_scores(outputs, classes.branches, count))
        if outputs.tile.numel():
            right["tile_accuracy"].append((outputs.tile.argmax(1) == labels.turned.tile).float())
        if outputs.angle.numel():
            right["angle_accuracy"].append((outputs.angle.argmax(1) == labels.turned.angle).float())
    found = {}
    if confusion.any():
        found.update(segmentation_scores(confusion.view(count, count).numpy()))
    if truths:
        truth, score = np.concatenate(truths), np.concatenate(scores)
        told = [k for k in range(count) if 0 < truth[:, k].mean() < 1]
        if told:
            found["average_precision"] = float(
                average_precision_score(truth[:, told], score[:, told], average="macro")
            )
    found.update({name: torch.cat(values).mean().item() for name, values in right.items() if values})
    return found


def segmentation_scores(confusion: NDArray[np.int64]) -> dict[str, float]:
    """Pixel accuracy and mean intersection over union of the classes that occur.

    Args:
        confusion: int64 (K, K), pixels by true (row) and predicted (column) class.
    """
    right, true, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    present = true > 0
    union = true + predicted - right
    return {
        "pixel_accuracy": float(right.sum() / confusion.sum()),
        "mean_iou": float((right[present] / union[present]).mean()),
    }


def part_scores(outputs: Outputs, branches: dict[str, tuple[int, ...]], count: int) -> NDArray[np.float32]:
    """Logits of all parts in the order of their numbers, float32 (B, `count`), from the branches'."""
    size = len(next(iter(outputs.classification.values())))
    scores = np.zeros((size, count), np.float32)
    for name, logits in outputs.classification.items():
        scores[:, list(branches[name])] = logits.float().cpu().numpy()
    return scores
