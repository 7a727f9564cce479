"""Stage 1: the training loop over the joint tasks, in plain sight."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from common.config import Config, Pretrain
from common.errors import UserError
from common.files import write_text
from common.layout import Layout
from common.progress import progress
from training.data.broken import BrokenSamples
from training.data.loader import Batch
from training.data.sampler import BatchSampler
from training.data.samples import Samples, read_samples
from training.engine.batch_norm import measure_batch_norm
from training.engine.device import announce_training, numerics
from training.engine.distributed import Ranks, joined
from training.engine.logger import Log
from common.freshness import write_record
from training.engine.resume import Checkpoints
from training.engine.signals import StopRequest, deferred_signals
from training.models.pretrained import FILE, save_pretrained
from training.pretrain.model import load_samples
from training.pretrain.resume import CHECKPOINTS, RECORD, is_up_to_date, made_from, run_provenance
from training.pretrain.state import TrainState
from training.pretrain.tasks import read_settings
from training.pretrain.validate import Validator, read_validation_samples

BATCH_NORM_STEP = -2
"""The number of the step that the final measurement of batch-norm statistics draws as."""


def pretrain(config: Config, layout: Layout, output: Path, resume: str = "auto") -> None:
    """Train stage 1 on the train and unlabelled shards; val only measures, test is not read.

    Continues from the latest checkpoint of the same run, in the middle of an epoch if need be, and
    saves one when SIGTERM or Ctrl-C stops it. Under ``torchrun`` all processes share each batch.
    Writes ``pretrained.safetensors`` (averaged weights), ``metrics.json``, the log, and a record of what
    they were made from; as long as that is up to date, nothing is trained again.

    Args:
        config: the settings.
        layout: the shards.
        output: folder of the results.
        resume: what to do about a checkpoint: auto, anyway or never, see `Checkpoints.resume`; never also
            trains again what is up to date.

    Raises:
        UserError: a setting of a task is wrong, there are no samples, the loss is not finite, the batch
            cannot be divided into equal micro-batches, or the checkpoint does not fit.
        SystemExit: a signal stopped the run; its state is saved.
    """
    read_settings(config.pretrain.tasks)
    with joined() as ranks, deferred_signals(second_interrupts=ranks.world == 1) as request:
        _check_micro_batches(config.pretrain, ranks)
        inputs = made_from(config, layout, ranks)
        if resume != "never" and is_up_to_date(output, inputs):
            if ranks.first:
                print(f"pretrain: {output} is up to date; add `--resume never` to train again")
            return
        settings = config.pretrain
        if ranks.first:
            announce_training("pretrain", settings.precision, ranks.world)
            if settings.shuffle_shards % ranks.world:
                print(
                    f"pretrain: {ranks.world} processes do not divide "
                    f"pretrain.shuffle_shards={settings.shuffle_shards}, so each shard is read by several"
                )
        checkpoints = Checkpoints(
            "pretrain",
            output / CHECKPOINTS,
            settings.checkpoint_minutes,
            settings.keep_checkpoints,
            config,
            run_provenance(config, layout, ranks),
            inputs["code"],
            ranks,
        )
        _train(config, layout, output, checkpoints, resume, request)
        if ranks.first:
            write_record(output / RECORD, {}, inputs)
        checkpoints.clear()


def _train(
    config: Config, layout: Layout, output: Path, checkpoints: Checkpoints, resume: str, request: StopRequest
) -> None:
    """The loop: from the checkpoint, if there is one, to the results in `output`."""
    settings, ranks = config.pretrain, checkpoints.ranks
    samples = read_samples(layout, ("train", "unlabelled"), config.stream.folder)
    broken = BrokenSamples(config.stream.max_broken)
    validator = _validator(config, layout, ranks, broken)
    state = TrainState(config.network, settings, ranks, samples.keys)
    start = checkpoints.resume(state, resume)
    planned = _planned(settings, samples, start, settings.steps, ranks.rank, ranks.world)
    loader = load_samples(samples, planned, state.model, settings, config.stream, broken)
    size = settings.batch_size
    bar = progress("pretrain", settings.steps * size, "samples", start * size, enabled=ranks.first)
    state.clock.restart()
    with Log(output, start, settings.tensorboard, active=ranks.first) as log:
        with checkpoints.saving_on_error(state):
            for step in range(start, settings.steps):
                with ranks.failing_together():
                    batch = state.clock.wait(loader)
                done = step + 1
                measuring = done % settings.log_every == 0 or done == settings.steps
                measured = _train_step(state, batch, step, measuring)
                state.clock.tick()
                if measuring or (validator is not None and validator.due(done)):
                    state.check_losses()
                if measuring:
                    log.values(done, "pretrain", state.average_over_processes(measured))
                    log.values(done, "speed", state.speed(done))
                bar.update(size, f"{state.losses} ({state.clock.waiting():.0%} waiting for data)".strip())
                if validator is not None and done < settings.steps:
                    validator.log_due(log, state.model, done)
                    state.clock.restart()
                checkpoints.save_due(state, ranks.maximum(request.number))
        bar.close()
        checkpoints.save(state)  # what follows may fail, and replaces the weights
        _finish(config, samples, validator, state, log, output, broken)


def _train_step(state: TrainState, batch: Batch, step: int, measuring: bool) -> list[dict[str, float]]:
    """One optimisation step; returns the values of each micro-batch if `measuring`, else nothing."""
    count, measured = state.settings.accumulate, []
    state.zero_gradients()
    for number in range(count):
        micro_batch = batch.micro_batch(number, count)
        with state.synchronised(last=number + 1 == count):
            passed = state.forward(micro_batch, step, number)
            state.losses.add(passed.total, step, micro_batch.indices)
            state.backward(passed, step)
        state.backward_adversaries(passed, step)
        if measuring:
            measured.append(state.measure(passed))
    state.update(step)
    return measured


def _check_micro_batches(settings: Pretrain, ranks: Ranks) -> None:
    count = ranks.world * settings.accumulate
    if settings.batch_size % count or settings.batch_size < 2 * count:
        raise UserError(
            f"pretrain.batch_size={settings.batch_size} cannot be divided into {count} equal micro-batches "
            f"of two or more ({ranks.world} processes x pretrain.accumulate={settings.accumulate})"
        )


def _validator(config: Config, layout: Layout, ranks: Ranks, broken: BrokenSamples) -> Validator | None:
    samples = read_validation_samples(layout, config.pretrain.validate_samples)
    if samples is not None:
        return Validator(samples, config.pretrain, config.stream, ranks.device, broken)
    if ranks.first:
        print("pretrain: fewer than two samples in the val split, so nothing is validated")
    return None


def _planned(
    settings: Pretrain, samples: Samples, start: int, stop: int, rank: int = 0, world: int = 1
) -> BatchSampler:
    window, size = settings.shuffle_shards, settings.batch_size
    return BatchSampler(samples.shards, settings.seed, window, size, start, stop, rank, world)


def _finish(
    config: Config,
    samples: Samples,
    validator: Validator | None,
    state: TrainState,
    log: Log,
    output: Path,
    broken: BrokenSamples,
) -> None:
    """Validate and write the averaged network, with batch-norm statistics measured on patches.

    All processes measure and validate the same batches, since layers that are synchronised wait for each
    other; the first writes.
    """
    settings, model = config.pretrain, state.model
    planned = _planned(settings, samples, 0, settings.batch_norm_batches)
    batches = load_samples(samples, planned, model, settings, config.stream, broken)
    state.average.copy_to()
    measure_batch_norm(model.network, model.network, _patches(state, batches))
    metrics: dict[str, Any] = {
        "samples": len(samples),
        "steps": settings.steps,
        "numerics": numerics(settings.precision),
        "seconds": round(state.clock.seconds, 1),
        "waiting": round(state.clock.waiting(), 4),
        "train": {name: round(float(np.mean(values)), 4) for name, values in state.recent.items()},
    }
    if validator is not None:
        scores = validator.scores(model)
        log.values(settings.steps, "val", scores)
        log.image(settings.steps, "tasks", validator.image(model))
        rounded = {name: round(score, 4) for name, score in scores.items()}
        metrics["val"] = {"samples": len(validator.samples), **rounded}
    metrics["broken"] = len(set().union(*state.ranks.gathered(broken.keys)))
    metrics["tasks"] = [task.description() for task in model.active()]
    if not state.ranks.first:
        return
    save_pretrained(output / FILE, model.network, config)
    write_text(output / "metrics.json", json.dumps(metrics, indent=2) + "\n")


def _patches(state: TrainState, batches: Iterator[Batch]) -> Iterator[Tensor]:
    for number, batch in enumerate(batches):
        yield state.model.prepare(batch.to(state.ranks.device), BATCH_NORM_STEP, number).crops.patches
