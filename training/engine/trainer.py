"""The training loop of both stages.

A stage gives an `Objective`: a model, and a function from a micro-batch to its loss. Everything else is the
same for all: the batches of planned epochs, mixed precision, several processes, clipping, the moving average
of the weights, validation and the choice of a step by it, the log, checkpoints and stopping on signals.

What happens in a step follows from the seed and the step's number alone, so a run that was stopped continues
to the same weights, and N processes compute what one process does with N times as many micro-batches.
"""

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dvclive import Live
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import update_bn
from torch_ema import ExponentialMovingAverage

from common.config import Pretrain
from common.files import disk_errors, write_text
from common.hardware import hardware
from common.progress import progress
from training.data.loader import Batch
from training.engine.checkpoint import Checkpoints, stop_requests
from training.engine.device import autocast, keyed_generator
from training.engine.objective import Objective
from training.engine.optim import LossCheck, adam, rate_factor


@dataclass
class Kept:
    """A copy of the averaged weights with the best score on val so far; of the last step if nothing chose."""

    step: int = 0
    score: float | None = None
    scores: dict[str, float] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)


class Clock:
    """Time spent on steps, without validations and checkpoints, and in seconds how much of it data took."""

    def __init__(self) -> None:
        self.seconds, self.waited, self._last = 0.0, 0.0, time.monotonic()

    def tick(self, counts: bool = True) -> None:
        """Add the time since the last tick, if it `counts`."""
        before, self._last = self._last, time.monotonic()
        self.seconds += self._last - before if counts else 0.0

    def waiting(self) -> float:
        """The share of the time that passed in waiting for data."""
        return self.waited / self.seconds if self.seconds else 0.0


class Log(AbstractContextManager["Log"]):
    """The log of one run: curves in ``dvclive/plots/metrics`` of `output`; None: nothing is written.

    Points after `step`, which an earlier process did, are dropped, since the run is about to do them again.
    """

    def __init__(self, output: Path | None, step: int) -> None:
        self._live = None
        if output is not None:
            folder = output / "dvclive"
            _drop_after(folder, step)
            self._live = Live(str(folder), save_dvc_exp=False, dvcyaml=None, report=None, resume=step > 0)

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.end()

    def values(self, step: int, group: str, values: dict[str, float]) -> None:
        """Add a point to the curves ``group/name``, after `step` steps."""
        if self._live:
            self._live.step = step
            with disk_errors(Path(self._live.dir)):
                for name, value in values.items():
                    self._live.log_metric(f"{group}/{name}", value)


def _drop_after(folder: Path, step: int) -> None:
    (folder / "metrics.json").unlink(missing_ok=True)  # the last values, which a full disk leaves empty
    for file in (folder / "plots" / "metrics").rglob("*.tsv") if step else ():
        header, *rows = file.read_text(encoding="utf-8").splitlines(keepends=True) or ("",)
        # What a full disk or a copy of a file that was being written ends with is part of a row.
        kept = [row for row in rows if row.endswith("\n") and int(row.split("\t")[0]) <= step]
        write_text(file, header + "".join(kept)) if header.endswith("\n") else file.unlink()


class Trainer:
    """Trains the model of an `Objective`, and leaves it with the averaged weights that are `kept`.

    Of the plan it reads what any loop needs, such as the steps; without a folder there is no log.
    """

    def __init__(
        self, objective: Objective, plan: Pretrain, checkpoints: Checkpoints, log_folder: Path | None = None
    ) -> None:
        self.objective, self.plan, self._settings = objective, plan, objective.data.config.trainer
        self._checkpoints, self._ranks, self._log_folder = checkpoints, checkpoints.ranks, log_folder
        device, settings = self._ranks.device, self._settings
        self._model = self._ranks.synchronise_batch_norm(
            objective.model.to(device).to(memory_format=torch.channels_last)
        ).train()
        self._optimizer = adam(objective.parameter_groups(), plan.weight_decay)
        compiled: Any = torch.compile(self._model) if settings.compile else self._model
        self._forward = self._ranks.wrap(compiled)
        self._adversary_optimizer = None
        if objective.adversary is not None:
            parameters = list(objective.adversary.to(device).requires_grad_(False).parameters())
            rate = max(rate for _, rate in objective.parameter_groups())
            self._adversary_optimizer = adam([(parameters, rate)], plan.weight_decay)
        self.average = ExponentialMovingAverage(self._model.parameters(), plan.average_decay)
        # So that gradients in float16 do not vanish; it does nothing in other formats.
        float16 = hardware().dtype(settings.precision) == "float16"
        self._scaler = torch.amp.GradScaler(device.type, enabled=float16)
        self.clock, self.losses, self.kept = Clock(), LossCheck(objective.data.samples.keys), Kept()
        self.recent: dict[str, list[float]] = {}  # the last five logged values by name
        # How many steps are done; None while the weights change, and if a loss is not finite.
        self.done: int | None = 0
        self._validated = 0

    def fit(self, resume: str) -> None:
        """Train from the checkpoint, if there is one, to the last step (`resume`: see `Checkpoints.resume`).

        Raises:
            UserError: a loss is not finite, samples cannot be read, or the checkpoint does not fit.
            SystemExit: a signal stopped the run; its state is saved.
        """
        plan, ranks, checkpoints = self.plan, self._ranks, self._checkpoints
        start, size = checkpoints.resume(self, resume), plan.batch_size
        batches = self.objective.data.batches(size, start, plan.steps, ranks.rank, ranks.world)
        bar = progress(checkpoints.title, plan.steps * size, "faces", start * size, enabled=ranks.first)
        log = Log(self._log_folder if ranks.first else None, start)
        with (
            stop_requests(second_interrupts=ranks.world == 1) as stop,
            log,
            checkpoints.saving_on_error(self),
        ):
            self._validate_due(log)  # an error may have ended the run in this validation
            self.clock.tick(counts=False)
            for step in range(start, plan.steps):
                began, done = time.monotonic(), step + 1
                with ranks.failing_together():
                    batch = next(batches)
                    self.clock.waited += time.monotonic() - began
                logged = done % plan.log_every == 0 or done == plan.steps
                values = self.step(batch, step, logged)
                self.clock.tick()
                if logged:
                    self._log(log, done, values)
                bar.update(size, f"{self.losses} ({self.clock.waiting():.0%} waiting for data)".strip())
                self._validate_due(log)
                checkpoints.save_due(self, ranks.maximum(stop.number))
            checkpoints.save(self)
        bar.close()
        self._model.load_state_dict(self.kept.weights)

    def step(self, batch: Batch, step: int, logged: bool) -> list[dict[str, float]]:
        """One optimisation step; returns the values of its micro-batches if they are `logged`, else none."""
        plan, ranks, scaler, count = self.plan, self._ranks, self._scaler, self.plan.accumulate
        adversary, optimizers, values = self.objective.adversary, [self._optimizer], []
        for number in range(count):
            part, micro_batch = batch.micro_batch(number, count), ranks.rank + number * ranks.world
            # What a network draws itself, such as dropout.
            torch.manual_seed(keyed_generator(plan.seed, step, micro_batch).initial_seed())
            with ranks.unshared(self._forward) if number + 1 < count else nullcontext():
                loss = self.objective.loss(self._forward, part.to(ranks.device), step, micro_batch)
                self.losses.add(loss.total, step, part.indices)
                scaler.scale(loss.total / count).backward()
            if adversary is not None and loss.adversary is not None:
                adversary.requires_grad_(True)
                scaler.scale(loss.adversary() / count).backward()
                adversary.requires_grad_(False)
                optimizers = [each for each in (self._optimizer, self._adversary_optimizer) if each]
            if logged:
                values.append({"loss": loss.total.item(), **loss.values()})
        if plan.clip_norm is not None:
            scaler.unscale_(self._optimizer)
            clip_grad_norm_(self._model.parameters(), plan.clip_norm)
        if adversary is not None and len(optimizers) > 1:
            ranks.average_gradients(adversary)
        self.done = None
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base"] * rate_factor(plan.schedule, step, plan.steps)
            scaler.step(optimizer)
            optimizer.zero_grad(set_to_none=True)
        scaler.update()
        self.average.update()
        self.done = step + 1
        return values

    def _validate_due(self, log: Log) -> None:
        """Validate the averaged weights if that is due after the steps that are done, and has not been done.

        Weights that may be kept need batch-norm statistics first: the moving average is of parameters alone.
        """
        plan, done = self.plan, self.done or 0
        last = done == plan.steps
        due = done > 0 and plan.validate_every is not None and done % plan.validate_every == 0
        if not (last or due) or self._validated == done:
            return
        self._check_losses()
        with self.average.average_parameters():
            if last or self.objective.select is not None:
                module, inputs = self.objective.batch_norm()
                with autocast(self._ranks.device, self._settings.precision):
                    update_bn(inputs, module)
            scores = dict(self.objective.validate())
            score, best = scores.get(self.objective.select or ""), self.kept.score
            if (last and best is None) or (score is not None and (best is None or score > best)):
                weights = {name: value.clone() for name, value in self._model.state_dict().items()}
                self.kept = Kept(done, score, scores, weights)
        self.average.collected_params = None  # or checkpoints would hold this copy too
        log.values(done, "val", scores)
        self._validated = done
        self.clock.tick(counts=False)

    def _check_losses(self) -> None:
        """Read the losses since the last check; weights after one that is not finite are not saved."""
        done, self.done = self.done, None
        self.losses.check()
        self.done = done

    def _log(self, log: Log, done: int, measured: list[dict[str, float]]) -> None:
        """Check the losses and log the means of `measured` over micro-batches and processes."""
        self._check_losses()
        names, seconds = measured[0], self.clock.seconds
        means = self._ranks.mean({name: float(np.mean([each[name] for each in measured])) for name in names})
        for name, value in means.items():
            self.recent[name] = [*self.recent.get(name, []), value][-5:]
        log.values(done, self._checkpoints.title, means)
        speed = {
            "samples_per_second": self.plan.batch_size * done / seconds,
            "waiting": self.clock.waiting(),
            "minutes_left": (self.plan.steps - done) * seconds / done / 60,
        }
        log.values(done, "speed", speed)

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, besides its number, and what has been measured.

        Schedules, the position in the data and random states follow from the step's number and the seed.
        """
        self._check_losses()
        return {
            **{name: part.state_dict() for name, part in self._stateful().items()},
            "kept": vars(self.kept),
            "clock": (self.clock.seconds, self.clock.waited),
            "recent": self.recent,
            "measured": (self.losses.last, self._validated),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken."""
        for name, part in self._stateful().items():
            part.load_state_dict(state[name])
        self.kept, self.recent = Kept(**state["kept"]), state["recent"]
        self.clock.seconds, self.clock.waited = state["clock"]
        self.losses.last, self._validated = state["measured"]

    def _stateful(self) -> dict[str, Any]:
        parts = {
            "model": self._model,
            "optimizer": self._optimizer,
            "average": self.average,
            "adversary": self.objective.adversary,
            "adversary_optimizer": self._adversary_optimizer,
            "scaler": self._scaler if self._scaler.is_enabled() else None,
        }
        return {name: part for name, part in parts.items() if part is not None}
