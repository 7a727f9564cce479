"""Stage 2: attribute recognition from few labels, from stage 1's weights and from scratch."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch_ema import ExponentialMovingAverage

from contract.config import Config, FinetuneRun
from contract.files import write_text
from contract.layout import Layout
from contract.progress import progress
from training import checkpoint
from training.augment import augment
from training.average import take_average
from training.classifier import Classifier, attribute_loss, load_network
from training.exported import read_exported
from training.facts import facts_of
from training.optimization import adam, check_finite, device, set_rate, set_seed
from training.preprocess import to_input
from training.stream import Batch, Faces, PlannedBatches, load, read_faces
from training.subsets import labelled_subset
from training.tasks.patches import resize_images


def run_name(initial: str, run: FinetuneRun) -> str:
    """The name of a run and of its folder, such as ``pretrained-5%``."""
    return f"{initial}-{run.labels * 100:g}%"


def finetune(config: Config, layout: Layout, pretrained: Path, output: Path) -> None:
    """Train every configured run on the labelled train faces; write a folder per run.

    Without a single label there is nothing to learn: that is said, and ``runs.json`` is empty.

    Raises:
        UserError: the stage 1 checkpoint is missing, or a loss is not finite.
    """
    faces = read_faces(layout, ("train",)).labelled()
    output.mkdir(parents=True, exist_ok=True)
    done = []
    if not len(faces):
        print("finetune: no face has a label, so there is no classifier to train")
    else:
        for run in config.finetune.runs:
            for initial in config.finetune.initial:
                done.append(_train(config, faces, run, initial, pretrained, output, facts_of(layout, config)))
    write_text(output / "runs.json", json.dumps(done, indent=2) + "\n")


def _train(
    config: Config,
    faces: Faces,
    run: FinetuneRun,
    initial: str,
    pretrained: Path,
    output: Path,
    facts: dict[str, Any],
) -> dict[str, object]:
    settings, place, name = config.finetune, device(), run_name(initial, run)
    generator = set_seed(settings.seed)
    subset = faces.take(labelled_subset(faces, run.labels, settings.seed))
    model = Classifier(config.network, faces.attribute_names)
    if initial == "pretrained":
        load_network(model, config.network, read_exported(pretrained))
    model.to(place).to(memory_format=torch.channels_last)
    optimizer = adam(model, settings.optimizer)
    average = ExponentialMovingAverage(model.parameters(), settings.average_decay)
    attributes = torch.from_numpy(subset.attributes)
    bar = progress(f"finetune {name}", run.steps * settings.batch_size, "faces")
    began = time.monotonic()
    model.train()
    for step, batch in enumerate(_batches(config, subset, run.steps)):
        set_rate(optimizer, settings.optimizer, step, run.steps)
        images = resize_images(batch.images.to(place), config.network.input_size)
        pictures = to_input(augment(images, settings.augment, generator), config.network.input_size)
        with torch.autocast(place.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
            logits = model(pictures)
        loss = attribute_loss(logits, attributes[batch.indices].to(place), model.groups)
        check_finite(loss, step, [subset.keys[i] for i in batch.indices.tolist()])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        average.update()
        bar.update(settings.batch_size, f"loss {loss.item():.3f}")
    bar.close()
    seconds = time.monotonic() - began
    plain = (
        to_input(batch.images.to(place), config.network.input_size)
        for batch in _batches(config, subset, settings.batch_norm_batches)
    )
    take_average(average, model, model, plain)
    folder = output / name
    folder.mkdir(exist_ok=True)
    checkpoint.save(
        folder / "classifier.pt",
        {
            "model": model.state_dict(),
            "attributes": list(faces.attribute_names),
            "config": config.model_dump(mode="json"),
            "facts": facts,
        },
    )
    return {
        "name": name,
        "initial": initial,
        "labels": run.labels,
        "faces": len(subset),
        "steps": run.steps,
        "seconds": round(seconds, 1),
        "loss": round(loss.item(), 4),
    }


def _batches(config: Config, faces: Faces, steps: int) -> Iterator[Batch]:
    settings = config.finetune
    planned = PlannedBatches(
        faces.shards, settings.seed, settings.shuffle_shards, settings.batch_size, 0, steps
    )
    return load(faces, planned, False, settings.loader_workers, config.stream)
