"""Stage 1: the training loop over the joint tasks, its checkpoints, and its result."""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dvclive import Live
from torch_ema import ExponentialMovingAverage

from contract.config import Config
from contract.files import write_text
from contract.layout import Layout
from contract.progress import progress
from training import checkpoint
from training.average import take_average
from training.optimization import adam, check_finite, device, set_rate, set_seed
from training.stream import Faces, PlannedBatches, load, read_faces
from training.tasks.agreement import Discriminator, discriminator_loss
from training.tasks.joint import PretrainModel, accuracies, losses, make_labels


class Stage:
    """All that changes while stage 1 trains, so that it can be saved and taken up again."""

    def __init__(self, config: Config) -> None:
        settings = config.pretrain
        self.draws = set_seed(settings.seed)
        self.device = device()
        self.model = PretrainModel(config).to(self.device)
        self.model.to(memory_format=torch.channels_last)
        self.discriminator = Discriminator(self.model.network.channels).to(self.device)
        self.optimizer = adam(self.model, settings.optimizer)
        self.opponent = adam(self.discriminator, settings.optimizer)
        self.average = ExponentialMovingAverage(self.model.parameters(), settings.average_decay)
        self.seconds, self.waited = 0.0, 0.0
        self.seen: dict[str, list[float]] = {}

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        names = ("model", "discriminator", "optimizer", "opponent", "average")
        return {
            **{name: getattr(self, name).state_dict() for name in names},
            "draws": self.draws.get_state(),
            "torch": torch.get_rng_state(),
            "seconds": self.seconds,
            "waited": self.waited,
            "seen": self.seen,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        for name in ("model", "discriminator", "optimizer", "opponent", "average"):
            getattr(self, name).load_state_dict(state[name])
        self.draws.set_state(state["draws"])
        torch.set_rng_state(state["torch"])
        self.seconds, self.waited, self.seen = state["seconds"], state["waited"], state["seen"]


def pretrain(config: Config, layout: Layout, output: Path) -> None:
    """Train stage 1 on the train and unlabelled shards; never on val or test.

    Goes on from ``last.pt`` if one of the same configuration and shards is there. Writes
    ``pretrained.pt`` (averaged weights and the configuration) and ``metrics.json``.

    Raises:
        UserError: there are no samples, or the loss is not finite.
    """
    settings, last = config.pretrain, output / "last.pt"
    faces = read_faces(layout, ("train", "unlabelled"))
    stage = Stage(config)
    stamp = {
        "shards": manifest_hash(layout),
        **{name: getattr(config, name).model_dump(mode="json") for name in ("network", "pretrain")},
    }
    start = _resume(last, stamp, stage)
    batches = PlannedBatches(
        faces.shards, settings.seed, settings.shuffle_shards, settings.batch_size, start, settings.steps
    )
    loader = load(faces, batches, True, settings.loader_workers, config.stream)
    bar = progress("pretrain", settings.steps * settings.batch_size, "samples", start * settings.batch_size)
    before, began = stage.seconds, time.monotonic()
    saved = began
    live = Live(str(output / "dvclive"), save_dvc_exp=False, dvcyaml=None, report=None, resume=start > 0)
    for step in range(start, settings.steps):
        asked = time.monotonic()
        batch = next(loader).to(stage.device)
        stage.waited += time.monotonic() - asked

        labels = make_labels(batch, config, stage.draws)
        set_rate(stage.optimizer, settings.optimizer, step, settings.steps)
        stage.model.train()
        with torch.autocast(stage.device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
            outputs = stage.model(labels.patches, labels.turned.tiles)
            terms = losses(outputs, labels, config, stage.discriminator)
        total = torch.stack([getattr(settings.tasks, name) * term for name, term in terms.items()]).sum()
        check_finite(total, step, [faces.keys[i] for i in batch.indices.tolist()])
        stage.optimizer.zero_grad(set_to_none=True)
        total.backward()
        stage.optimizer.step()
        stage.average.update()

        if settings.tasks.agreement and step % settings.discriminator_interval == 0:
            set_rate(stage.opponent, settings.optimizer, step, settings.steps)
            stage.opponent.zero_grad(set_to_none=True)
            discriminator_loss(stage.discriminator, outputs.fused.float(), outputs.whole.float()).backward()
            stage.opponent.step()

        if (step + 1) % settings.log_every == 0 or step + 1 == settings.steps:
            measured = {f"{name}_loss": term.item() for name, term in terms.items()}
            live.step = step + 1
            for name, value in {"loss": total.item(), **measured, **accuracies(outputs, labels)}.items():
                live.log_metric(f"pretrain/{name}", value)
                stage.seen.setdefault(name, []).append(value)
        stage.seconds = before + time.monotonic() - began
        waiting = stage.waited / stage.seconds
        bar.update(settings.batch_size, f"loss {total.item():.3f}, {waiting:.0%} waiting for data")
        if time.monotonic() - saved > 60 * settings.checkpoint_minutes:
            saved = time.monotonic()
            checkpoint.save(last, {"step": step + 1, "stamp": stamp, "stage": stage.state()})
    bar.close()
    live.end()
    _finish(config, faces, stage, output)
    metrics = {
        "samples": len(faces),
        "steps": settings.steps,
        "seconds": round(stage.seconds, 1),
        "waiting": round(stage.waited / stage.seconds, 4),
        **{name: round(float(np.mean(values[-5:])), 4) for name, values in stage.seen.items()},
    }
    write_text(output / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    last.unlink(missing_ok=True)


def _finish(config: Config, faces: Faces, stage: Stage, output: Path) -> None:
    """Write the averaged network, with batch-norm statistics measured on patches."""
    settings, draws = config.pretrain, torch.Generator().manual_seed(config.pretrain.seed)
    batches = PlannedBatches(
        faces.shards,
        settings.seed,
        settings.shuffle_shards,
        settings.batch_size,
        0,
        settings.batch_norm_batches,
    )
    inputs = (
        make_labels(batch.to(stage.device), config, draws).patches
        for batch in load(faces, batches, True, settings.loader_workers, config.stream)
    )
    take_average(stage.average, stage.model.network, stage.model.network, inputs)
    state = {"network": stage.model.network.state_dict(), "config": config.model_dump(mode="json")}
    checkpoint.save(output / "pretrained.pt", state)


def _resume(path: Path, stamp: dict[str, Any], stage: Stage) -> int:
    if not path.is_file():
        return 0
    state = checkpoint.load(path)
    if state["stamp"] != stamp:
        print(f"pretrain: {path} is of another configuration or other shards; starting anew")
        return 0
    stage.restore(state["stage"])
    print(f"pretrain: going on at step {state['step']:,}")
    return int(state["step"])


def manifest_hash(layout: Layout) -> str:
    """SHA-256 of ``shards.parquet``: names the shards that a checkpoint was trained on."""
    return hashlib.sha256(layout.require_samples().read_bytes()).hexdigest()
