"""Stage 1: the three tasks and the adversarial agreement, trained jointly."""

import json
import random
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from dvclive import Live
from torch import Tensor, nn
from torch_ema import ExponentialMovingAverage

from contract.classes import FLIP_CLASSES
from contract.config import Config
from contract.files import write_text
from contract.layout import Layout
from contract.progress import progress
from training import checkpoint
from training.average import check_finite, take_average
from training.networks import Features, build
from training.preprocess import to_input
from training.schedule import rate_factor
from training.stream import Batch, Faces, PlannedBatches, load, read_faces
from training.tasks.agreement import Discriminator, Fusion, discriminator_loss, fooling_loss
from training.tasks.classification import (
    BRANCH_CLASSES,
    ClassificationHead,
    classification_loss,
    count_classes,
    dominant_parts,
)
from training.tasks.patches import crop, random_corners, resize_masks
from training.tasks.rotation import RotationHead, TurnedTiles, turn_tiles
from training.tasks.segmentation import SegmentationHead, segmentation_loss, upsample

LOG_EVERY = 20
BATCH_NORM_BATCHES = 20


@dataclass(frozen=True)
class Labels:
    """What stage 1 makes of a batch, all without annotations.

    Attributes:
        patches: float32 (B, 3, S, S), normalised network input.
        masks: int64 (B, S, S), the patches' parsing masks.
        parts: float32 (B, 19), 1 for the classes that dominate the patch.
        turned: tiles of the rotation task.
    """

    patches: Tensor
    masks: Tensor
    parts: Tensor
    turned: TurnedTiles


class PretrainModel(nn.Module):
    """The network with the heads of all tasks."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.network = build(config.network)
        channels = self.network.channels
        self.segmentation = SegmentationHead(channels)
        self.classification = ClassificationHead(channels)
        self.rotation = RotationHead(channels, config.network.tiles)
        self.fusion = Fusion(channels)

    def forward(self, patches: Tensor, tiles: Tensor) -> "Outputs":
        """Answers for float (B, 3, S, S) patches and float (B, 3*m*m, S, S) tiles."""
        seen: Features = self.network(patches)
        turned: Features = self.network(self.rotation.entrance(tiles), branches=False)
        tile, angle = self.rotation(turned.trunk)
        return Outputs(
            segmentation=self.segmentation(seen.trunk),
            classification=self.classification(seen.branches),
            tile=tile,
            angle=angle,
            fused=self.fusion(seen.branches),
            whole=seen.branches["whole"].mean(dim=(2, 3)),
        )


@dataclass(frozen=True)
class Outputs:
    """Logits per task; `fused` and `whole` are the vectors of the agreement, (B, C)."""

    segmentation: Tensor
    classification: dict[str, Tensor]
    tile: Tensor
    angle: Tensor
    fused: Tensor
    whole: Tensor


def make_labels(batch: Batch, config: Config, generator: torch.Generator) -> Labels:
    """Make a batch's inputs and labels on the device that it lies on."""
    settings, size = config.pretrain, config.network.input_size
    images, masks = flip(batch.images, batch.masks, generator)
    least, greatest = settings.patch_fraction
    share = least + (greatest - least) * torch.rand((), generator=generator).item()
    side = max(1, round(images.shape[-1] * share))
    corner = random_corners(len(images), images.shape[-1] - side, generator, images.device)[:, None]
    top, left = corner[..., 0], corner[..., 1]
    patch_masks = crop(masks[:, None], top, left, side)[:, 0, 0]
    return Labels(
        patches=to_input(crop(images, top, left, side)[:, 0], size),
        masks=resize_masks(patch_masks, size),
        parts=dominant_parts(count_classes(patch_masks), settings.top_parts),
        turned=turn_tiles(images, masks, config.network.tiles, size, settings, generator),
    )


def flip(images: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mirror half of the samples; left and right classes of their masks change places."""
    mirrored = (torch.rand(len(images), generator=generator) < 0.5).to(images.device)
    classes = torch.from_numpy(FLIP_CLASSES.copy()).to(masks.device)
    images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    return images, torch.where(mirrored[:, None, None], classes[masks.flip(-1).long()], masks)


def losses(outputs: Outputs, labels: Labels, config: Config, discriminator: Discriminator) -> dict[str, Tensor]:
    """The loss of every task whose weight is not 0, unweighted."""
    weights, smoothing = config.pretrain.tasks, config.pretrain.label_smoothing
    terms = {}
    if weights.segmentation:
        terms["segmentation"] = segmentation_loss(outputs.segmentation, labels.masks, smoothing)
    if weights.classification:
        terms["classification"] = classification_loss(outputs.classification, labels.parts)
    if weights.rotation:
        terms["rotation"] = nn.functional.cross_entropy(outputs.tile.float(), labels.turned.tile)
    if weights.angle:
        terms["angle"] = nn.functional.cross_entropy(outputs.angle.float(), labels.turned.angle)
    if weights.agreement:
        terms["agreement"] = fooling_loss(discriminator, outputs.fused)
    return terms


@torch.no_grad()
def accuracies(outputs: Outputs, labels: Labels) -> dict[str, float]:
    """Share of right answers per task on a batch."""
    predicted = upsample(outputs.segmentation, labels.masks.shape[-1]).argmax(1)
    parts = [
        ((logits > 0) == labels.parts[:, list(BRANCH_CLASSES[name])].bool()).float().mean()
        for name, logits in outputs.classification.items()
    ]
    return {
        "segmentation_accuracy": (predicted == labels.masks).float().mean().item(),
        "classification_accuracy": torch.stack(parts).mean().item(),
        "rotation_accuracy": (outputs.tile.argmax(1) == labels.turned.tile).float().mean().item(),
        "angle_accuracy": (outputs.angle.argmax(1) == labels.turned.angle).float().mean().item(),
    }


def set_seed(seed: int) -> torch.Generator:
    """Seed every source of randomness; return the generator of all label draws."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pretrain(config: Config, layout: Layout, output: Path) -> None:
    """Train stage 1 on the train and unlabelled shards; never on val or test.

    Goes on from ``last.pt`` if one of the same configuration and shards is there. Writes
    ``pretrained.pt`` (averaged weights and what is needed to use them) and ``metrics.json``.

    Raises:
        UserError: there are no samples, or the loss is not finite.
    """
    settings = config.pretrain
    faces = read_faces(layout, ("train", "unlabelled"))
    generator = set_seed(settings.seed)
    place = device()
    model = PretrainModel(config).to(place, memory_format=torch.channels_last)
    discriminator = Discriminator(model.network.channels).to(place)
    adam = {"lr": settings.optimizer.learning_rate, "weight_decay": settings.optimizer.weight_decay}
    optimizer = torch.optim.Adam(model.parameters(), **adam)
    opponent = torch.optim.Adam(discriminator.parameters(), **adam)
    average = ExponentialMovingAverage(model.parameters(), settings.average_decay)
    parts = {"model": model, "discriminator": discriminator, "optimizer": optimizer, "opponent": opponent}
    parts["average"] = average
    output.mkdir(parents=True, exist_ok=True)
    stamp = {"config": _facts(config), "shards": manifest_hash(layout)}
    start = _resume(output / "last.pt", stamp, parts, generator)

    batches = PlannedBatches(
        faces.shards, settings.seed, settings.shuffle_shards, settings.batch_size, start, settings.steps
    )
    bar = progress("pretrain", settings.steps * settings.batch_size, "samples", start * settings.batch_size)
    began = saved = time.monotonic()
    waited, seen = 0.0, defaultdict[str, list[float]](list)
    with Live(str(output / "dvclive"), save_dvc_exp=False, dvcyaml=None, report=None, resume=start > 0) as live:
        loader = load(faces, batches, True, settings.loader_workers)
        for step in range(start, settings.steps):
            asked = time.monotonic()
            batch = next(loader).to(place)
            waited += time.monotonic() - asked
            labels = make_labels(batch, config, generator)
            for group in optimizer.param_groups + opponent.param_groups:
                group["lr"] = settings.optimizer.learning_rate * rate_factor(
                    settings.optimizer, step, settings.steps
                )
            model.train()
            with torch.autocast(place.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
                outputs = model(labels.patches, labels.turned.tiles)
                terms = losses(outputs, labels, config, discriminator)
            total = torch.stack([getattr(settings.tasks, name) * term for name, term in terms.items()]).sum()
            check_finite(total, step, [faces.keys[i] for i in batch.indices.tolist()])
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            optimizer.step()
            average.update()
            if settings.tasks.agreement and step % settings.discriminator_interval == 0:
                opponent.zero_grad(set_to_none=True)
                against = discriminator_loss(discriminator, outputs.fused.float(), outputs.whole.float())
                against.backward()
                opponent.step()
            if step % LOG_EVERY == LOG_EVERY - 1 or step == settings.steps - 1:
                logged = {f"{name}_loss": term.item() for name, term in terms.items()}
                logged |= {"loss": total.item()} | accuracies(outputs, labels)
                for name, value in logged.items():
                    live.log_metric(f"pretrain/{name}", value)
                    seen[name].append(value)
                live.step = step
                live.make_summary()
            share = waited / (time.monotonic() - began)
            bar.update(settings.batch_size, f"loss {total.item():.3f}, {share:.0%} waiting for data")
            if time.monotonic() - saved > 60 * settings.checkpoint_minutes:
                saved = time.monotonic()
                _save(output / "last.pt", step + 1, stamp, parts, generator)
    bar.close()
    _finish(config, faces, model, average, output, seen, time.monotonic() - began)


def _finish(
    config: Config,
    faces: Faces,
    model: PretrainModel,
    average: ExponentialMovingAverage,
    output: Path,
    seen: dict[str, list[float]],
    seconds: float,
) -> None:
    settings = config.pretrain
    generator = torch.Generator().manual_seed(settings.seed)
    place = device()
    batches = PlannedBatches(
        faces.shards, settings.seed, settings.shuffle_shards, settings.batch_size, 0, BATCH_NORM_BATCHES
    )
    inputs = (
        make_labels(batch.to(place), config, generator).patches
        for batch in load(faces, batches, True, settings.loader_workers)
    )
    take_average(average, model.network, model.network, inputs)
    state = {"network": model.network.state_dict(), "config": config.model_dump(mode="json")}
    checkpoint.save(output / "pretrained.pt", state)
    recent = {name: round(float(np.mean(values[-5:])), 4) for name, values in seen.items()}
    metrics = {"samples": len(faces), "steps": settings.steps, "seconds": round(seconds, 1), **recent}
    write_text(output / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    (output / "last.pt").unlink(missing_ok=True)


def _facts(config: Config) -> dict[str, object]:
    return {name: getattr(config, name).model_dump(mode="json") for name in ("network", "pretrain")}


def manifest_hash(layout: Layout) -> str:
    """SHA-256 of ``shards.parquet``: names the shards that a checkpoint was trained on."""
    import hashlib

    return hashlib.sha256(layout.require_samples().read_bytes()).hexdigest()


def _save(path: Path, step: int, stamp: dict[str, object], parts: dict[str, object], draws: torch.Generator) -> None:
    states = {name: part.state_dict() for name, part in parts.items()}  # type: ignore[attr-defined]
    random_states = {"draws": draws.get_state(), "torch": torch.get_rng_state()}
    checkpoint.save(path, {"step": step, "stamp": stamp, "states": states, "random": random_states})


def _resume(path: Path, stamp: dict[str, object], parts: dict[str, object], draws: torch.Generator) -> int:
    if not path.is_file():
        return 0
    state = checkpoint.load(path)
    if state["stamp"] != stamp:
        print(f"pretrain: {path} is of another configuration or other shards; starting anew")
        return 0
    for name, part in parts.items():
        part.load_state_dict(state["states"][name])  # type: ignore[attr-defined]
    draws.set_state(state["random"]["draws"])
    torch.set_rng_state(state["random"]["torch"])
    print(f"pretrain: going on at step {state['step']}")
    return int(state["step"])
