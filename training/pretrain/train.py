"""Stage 1: the training loop over the joint tasks, in plain sight."""

import json
import sys
import time
from pathlib import Path
from signal import Signals
from typing import Any

import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_

from common.config import Config
from common.errors import UserError
from common.files import write_text
from common.layout import Layout
from common.progress import progress
from training.data.sampler import BatchSampler
from training.data.samples import Samples, read_samples
from training.engine import checkpoint
from training.engine.device import autocast
from training.engine.distributed import Ranks, joined
from training.engine.ema import take_average
from training.engine.logger import Log
from training.engine.optim import check_finite, set_rate
from training.engine.seeds import seed_micro_batch
from training.engine.signals import noted_signals
from training.models.pretrained import FILE, save_pretrained
from training.pretrain.model import accuracies, load_samples, losses, make_labels
from training.pretrain.resume import resume, run_facts, save
from training.pretrain.state import Stage
from training.pretrain.tasks.adversarial import discriminator_loss
from training.pretrain.validate import answers, validate, validation_faces
from training.pretrain.visualize import tasks_picture


def pretrain(config: Config, layout: Layout, output: Path, choice: str = "auto") -> None:
    """Train stage 1 on the train and unlabelled shards; val only measures, test is not read.

    Goes on from the latest checkpoint of the same run, in the middle of an epoch if need be, and
    saves one when SIGTERM or Ctrl-C stops it. Under ``torchrun`` all processes share each batch.
    Writes ``pretrained.safetensors`` (averaged weights), ``metrics.json`` and the log.

    Args:
        config: the settings.
        layout: the shards.
        output: folder of the results.
        choice: what to do about a checkpoint: auto, anyway or never, see `resume`.

    Raises:
        UserError: there are no samples, the loss is not finite, the batch cannot be cut into
            equal parts, or the checkpoint is of another run.
        SystemExit: a signal stopped the run; its state is saved.
    """
    settings = config.pretrain
    with joined() as ranks, noted_signals(insist=ranks.world == 1) as request:
        _check_parts(config, ranks)
        faces = read_samples(layout, ("train", "unlabelled"))
        shown = validation_faces(config, layout)
        if shown is None and ranks.first:
            print("pretrain: fewer than two faces in the val split, so nothing is validated")
        stage, facts, saves = Stage(config, ranks), run_facts(config, layout, ranks), output / "checkpoints"
        start = resume(saves, facts, stage, ranks, choice)
        batches = _planned(config, faces, start, settings.steps, ranks.rank, ranks.world)
        loader = load_samples(faces, batches, config)
        log = Log(output, start, settings.tensorboard, active=ranks.first)
        size = settings.batch_size
        bar = progress("pretrain", settings.steps * size, "samples", start * size, enabled=ranks.first)
        saved = time.monotonic()
        stage.start_clock()
        with log:
            for step in range(start, settings.steps):
                asked = time.monotonic()
                batch = next(loader)
                stage.waited += time.monotonic() - asked

                logged = (step + 1) % settings.log_every == 0 or step + 1 == settings.steps
                contested = bool(settings.tasks.agreement) and step % settings.discriminator_interval == 0
                measured: list[dict[str, float]] = []
                stage.model.train()
                stage.optimizer.zero_grad(set_to_none=True)
                stage.opponent.zero_grad(set_to_none=True)
                for number in range(settings.accumulate):
                    part = batch.micro_batch(number, settings.accumulate).to(ranks.device)
                    draws = seed_micro_batch(settings.seed, step, ranks.rank + number * ranks.world)
                    labels = make_labels(part, config, draws)
                    with stage.sharing(last=number + 1 == settings.accumulate):
                        with autocast(ranks.device, settings.precision):
                            outputs = stage.forward(labels.patches, labels.turned.tiles)
                            terms = losses(outputs, labels, config, stage.discriminator)
                        weighted = [getattr(settings.tasks, name) * term for name, term in terms.items()]
                        total = torch.stack(weighted).sum()
                        check_finite(total, step, [faces.keys[i] for i in part.indices.tolist()])
                        (total / settings.accumulate).backward()
                    if contested:
                        stage.discriminator.requires_grad_(True)
                        told = discriminator_loss(
                            stage.discriminator, outputs.fused.float(), outputs.whole.float()
                        )
                        (told / settings.accumulate).backward()
                        stage.discriminator.requires_grad_(False)
                    if logged:
                        each = {f"{name}_loss": term.item() for name, term in terms.items()}
                        measured.append({"loss": total.item(), **each, **accuracies(outputs, labels)})

                set_rate(stage.optimizer, settings.optimizer, step, settings.steps)
                if settings.clip_norm is not None:
                    clip_grad_norm_(stage.model.parameters(), settings.clip_norm)
                stage.optimizer.step()
                stage.average.update()
                if contested:
                    set_rate(stage.opponent, settings.optimizer, step, settings.steps)
                    ranks.average_gradients(stage.discriminator)
                    stage.opponent.step()

                done = step + 1
                stage.tick()
                if logged:
                    values = ranks.mean({k: float(np.mean([m[k] for m in measured])) for k in measured[0]})
                    stage.note(values)
                    log.values(done, "pretrain", values)
                    log.values(done, "speed", stage.speed(done, settings))
                waiting = stage.waited / stage.seconds
                bar.update(size, f"loss {total.item():.3f}, {waiting:.0%} waiting for data")
                if ranks.first and shown is not None and done < settings.steps:
                    if settings.validate_every and done % settings.validate_every == 0:
                        log.values(done, "val", validate(stage.model, shown, config, ranks.device))
                    if settings.picture_every and done % settings.picture_every == 0:
                        log.picture(done, "tasks", _picture(stage, shown, config, ranks))
                    stage.start_clock()

                stopped = ranks.greatest(request.number)
                late = time.monotonic() - saved > 60 * settings.checkpoint_minutes
                if ranks.first and (stopped or (late and done < settings.steps)):
                    save(saves, done, config, facts, stage)
                    saved = time.monotonic()
                if stopped:
                    bar.close()
                    if ranks.first:
                        _say_stopped(stopped, done)
                    sys.exit(128 + stopped)
            bar.close()
            _finish(config, faces, shown, stage, ranks, log, output)
        if ranks.first:
            checkpoint.clear(saves)


def _check_parts(config: Config, ranks: Ranks) -> None:
    settings = config.pretrain
    parts = ranks.world * settings.accumulate
    if settings.batch_size % parts or settings.batch_size < 2 * parts:
        raise UserError(
            f"pretrain.batch_size={settings.batch_size} cannot be cut into {parts} equal parts of two or "
            f"more ({ranks.world} processes x pretrain.accumulate={settings.accumulate})"
        )


def _planned(
    config: Config, faces: Samples, start: int, stop: int, rank: int = 0, world: int = 1
) -> BatchSampler:
    settings = config.pretrain
    return BatchSampler(
        faces.shards, settings.seed, settings.shuffle_shards, settings.batch_size, start, stop, rank, world
    )


def _picture(stage: Stage, shown: Samples, config: Config, ranks: Ranks) -> Any:
    batch, labels, outputs = next(answers(stage.model, shown, config, ranks.device))
    return tasks_picture(batch, labels, outputs, config)


def _say_stopped(number: int, done: int) -> None:
    print(
        f"stopped by {Signals(number).name} after step {done:,}; the same command goes on from there",
        file=sys.stderr,
    )


def _finish(
    config: Config, faces: Samples, shown: Samples | None, stage: Stage, ranks: Ranks, log: Log, output: Path
) -> None:
    """Validate and write the averaged network, with batch-norm statistics measured on patches.

    All processes measure the same batches, since layers that are synchronised wait for each other.
    """
    settings, network = config.pretrain, stage.model.network
    planned = _planned(config, faces, 0, settings.batch_norm_batches)
    loader = load_samples(faces, planned, config)
    inputs = (
        make_labels(batch.to(ranks.device), config, seed_micro_batch(settings.seed, -2, number)).patches
        for number, batch in enumerate(loader)
    )
    take_average(stage.average, network, network, inputs)
    if not ranks.first:
        return
    metrics: dict[str, Any] = {
        "samples": len(faces),
        "steps": settings.steps,
        "seconds": round(stage.seconds, 1),
        "waiting": round(stage.waited / stage.seconds, 4),
        **{name: round(float(np.mean(values)), 4) for name, values in stage.seen.items()},
    }
    if shown is not None:
        found = validate(stage.model, shown, config, ranks.device)
        log.values(settings.steps, "val", found)
        log.picture(settings.steps, "tasks", _picture(stage, shown, config, ranks))
        metrics["val"] = {"samples": len(shown), **{name: round(v, 4) for name, v in found.items()}}
    save_pretrained(output / FILE, network, config)
    write_text(output / "metrics.json", json.dumps(metrics, indent=2) + "\n")
