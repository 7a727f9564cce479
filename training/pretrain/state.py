"""What changes while stage 1 trains: weights, their average, the optimisers, the clock, recent values."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_
from torch_ema import ExponentialMovingAverage

from common.config import Network, Pretrain
from training.data.loader import Batch
from training.engine.device import autocast, gradient_scaler
from training.engine.distributed import Ranks
from training.engine.optim import LossCheck, adam, set_rate
from training.engine.seeds import seed_micro_batch, set_seed
from training.pretrain.balance import GradientBalance
from training.pretrain.model import Example, PretrainModel

RECENT_VALUES = 5
"""The final metrics are means of so many last logged values."""


class Clock:
    """Time spent on steps, without validations and checkpoints.

    Attributes:
        seconds: of all steps.
        waited: of these, how many passed in waiting for data.
    """

    def __init__(self) -> None:
        self.seconds, self.waited = 0.0, 0.0
        self.restart()

    def restart(self) -> None:
        """Count from now; the time since the last tick is left out."""
        self._last = time.monotonic()

    def tick(self) -> None:
        """Add the time since the last tick or restart."""
        now = time.monotonic()
        self.seconds += now - self._last
        self._last = now

    def wait(self, loader: Iterator[Batch]) -> Batch:
        """The next batch."""
        began = time.monotonic()
        batch = next(loader)
        self.waited += time.monotonic() - began
        return batch

    def waiting(self) -> float:
        """The share of the time that passed in waiting for data."""
        return self.waited / self.seconds


@dataclass(frozen=True)
class ForwardPass:
    """One micro-batch after the forward pass.

    Attributes:
        example: the model's inputs and targets.
        outputs: by task.
        total: the loss that is minimised, a scalar.
        terms: the unweighted losses, by ``<task>/<term>``.
    """

    example: Example
    outputs: dict[str, dict[str, Tensor]]
    total: Tensor
    terms: dict[str, Tensor]


class TrainState:
    """The model and its adversaries with their optimisers, and the operations of a step.

    Attributes:
        model: the weights; checkpoints and the average are of these.
        adversaries: networks that are trained against a task, by its name.
        average: moving average of the model's weights.
        balance: of the losses; None if the configured weights are taken as they are.
        clock: of the steps.
        recent: the last logged values by name.
        losses: of the steps since they were last checked.
        done: how many steps are done; None while the weights change, and if a loss is not finite.
    """

    def __init__(self, network: Network, settings: Pretrain, ranks: Ranks, keys: Sequence[str]) -> None:
        set_seed(settings.seed)
        self.settings, self.ranks = settings, ranks
        model = PretrainModel(network, settings).to(ranks.device).to(memory_format=torch.channels_last)
        self.adversaries = nn.ModuleDict(
            {task.name: made for task in model.active() if (made := task.adversary()) is not None}
        )
        self.adversaries.to(ranks.device).requires_grad_(False)
        self.model: PretrainModel = ranks.synchronise_batch_norm(model)  # type: ignore[assignment]
        self._parallel = ranks.wrap(
            torch.compile(self.model) if settings.compile else self.model  # type: ignore[arg-type]
        )
        self.optimizer = adam(self.model, settings.optimizer)
        self.adversary_optimizers = {
            name: adam(adversary, settings.optimizer) for name, adversary in self.adversaries.items()
        }
        self.average = ExponentialMovingAverage(self.model.parameters(), settings.average_decay)
        backbone = self.model.network.parameter_groups()["backbone"]
        self.balance = GradientBalance(backbone, ranks) if settings.balance == "gradient" else None
        self._scaler = gradient_scaler(ranks.device, settings.precision)
        self.clock = Clock()
        self.recent: dict[str, list[float]] = {}
        self.losses = LossCheck(keys)
        self.done: int | None = 0

    def zero_gradients(self) -> None:
        """Prepare for the micro-batches of a step."""
        self.model.train()
        for optimizer in (self.optimizer, *self.adversary_optimizers.values()):
            optimizer.zero_grad(set_to_none=True)

    def synchronised(self, last: bool) -> AbstractContextManager[None]:
        """The context of a micro-batch: only the `last` of a step shares gradients between processes."""
        if last or not isinstance(self._parallel, DistributedDataParallel):
            return nullcontext()
        return self._parallel.no_sync()

    def forward(self, batch: Batch, step: int, number: int) -> ForwardPass:
        """Make the targets of this process's `number`-th micro-batch, and compute outputs and losses."""
        micro_batch = self.ranks.rank + number * self.ranks.world
        seed_micro_batch(self.settings.seed, step, micro_batch)
        example = self.model.prepare(batch.to(self.ranks.device), step, micro_batch)
        with autocast(self.ranks.device, self.settings.precision):
            outputs = self._parallel(example.crops.patches, example.targets)
            factors = {} if self.balance is None else self.balance.factors
            total, terms = self.model.losses(outputs, example.targets, self.adversaries, factors)
        return ForwardPass(example, outputs, total, terms)

    def backward(self, passed: ForwardPass, step: int) -> None:
        """Add a micro-batch's gradients of the model, and measure those of each loss where that is due.

        The losses of a task with an adversary keep their weights: their gradient vanishes whenever the
        adversary errs, and a factor would amplify the noise that is left.
        """
        if self.balance is not None and self.balance.due(step):
            own = {
                name: term
                for name, term in passed.terms.items()
                if name.split("/")[0] not in self.adversaries
            }
            self.balance.measure(own, self._scaler.get_scale())
        self._scaler.scale(passed.total / self.settings.accumulate).backward()

    def backward_adversaries(self, passed: ForwardPass, step: int) -> None:
        """Add a micro-batch's gradients of the adversaries whose turn it is."""
        for task in self._contested(step):
            adversary = self.adversaries[task.name].requires_grad_(True)
            loss = task.adversary_loss(adversary, passed.outputs[task.name])
            self._scaler.scale(loss / self.settings.accumulate).backward()
            adversary.requires_grad_(False)

    def update(self, step: int) -> None:
        """Take the optimisers' steps, and average the weights."""
        settings = self.settings
        set_rate(self.optimizer, settings.optimizer, step, settings.steps)
        if settings.clip_norm is not None:
            self._scaler.unscale_(self.optimizer)
            clip_grad_norm_(self.model.parameters(), settings.clip_norm)
        self.done = None
        if self.balance is not None and self.balance.due(step):
            self.balance.update(self.model.term_weight)
        self._scaler.step(self.optimizer)
        self.average.update()
        for task in self._contested(step):
            optimizer = self.adversary_optimizers[task.name]
            set_rate(optimizer, settings.optimizer, step, settings.steps)
            self.ranks.average_gradients(self.adversaries[task.name])
            self._scaler.step(optimizer)
        self._scaler.update()
        self.done = step + 1

    def check_losses(self) -> None:
        """Read the losses of the steps since the last check.

        Raises:
            UserError: one is not finite; the weights that followed from it are not saved.
        """
        done, self.done = self.done, None
        self.losses.check()
        self.done = done

    def measure(self, passed: ForwardPass) -> dict[str, float]:
        """The losses, their factors and the metrics of a micro-batch, by the names in the log."""
        observed = self.model.observe(passed.outputs, passed.example.targets)
        losses = {name: term.item() for name, term in passed.terms.items()}
        factors = {} if self.balance is None else self.balance.factors
        return {
            "loss": passed.total.item(),
            **losses,
            **{f"{name}_factor": factor for name, factor in factors.items()},
            **self.model.scores([observed], training=True),
        }

    def average_over_processes(self, measured: list[dict[str, float]]) -> dict[str, float]:
        """Means of measured values over micro-batches and processes; kept for the final metrics."""
        values = self.ranks.mean(
            {name: float(np.mean([each[name] for each in measured])) for name in measured[0]}
        )
        for name, value in values.items():
            self.recent[name] = [*self.recent.get(name, []), value][-RECENT_VALUES:]
        return values

    def speed(self, done: int) -> dict[str, float]:
        """Samples per second, share of time spent waiting for data, and minutes left, after `done` steps."""
        seconds = self.clock.seconds
        return {
            "samples_per_second": self.settings.batch_size * done / seconds,
            "waiting": self.clock.waiting(),
            "minutes_left": (self.settings.steps - done) * seconds / done / 60,
        }

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, besides its number.

        Schedules, the position in the data and every random state follow from the number of the
        step and the seed.

        Raises:
            UserError: a loss is not finite.
        """
        self.check_losses()
        return {
            **{name: part.state_dict() for name, part in self._stateful().items()},
            "seconds": self.clock.seconds,
            "waited": self.clock.waited,
            "recent": self.recent,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken."""
        for name, part in self._stateful().items():
            part.load_state_dict(state[name])
        self.clock.seconds, self.clock.waited = state["seconds"], state["waited"]
        self.recent = state["recent"]

    def _stateful(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "adversaries": self.adversaries,
            "optimizer": self.optimizer,
            "average": self.average,
            **{f"{name}_optimizer": each for name, each in self.adversary_optimizers.items()},
            **({} if self.balance is None else {"balance": self.balance}),
            **({"scaler": self._scaler} if self._scaler.is_enabled() else {}),
        }

    def _contested(self, step: int) -> list[Any]:
        return [
            task
            for task in self.model.active()
            if task.name in self.adversaries and step % task.adversary_interval() == 0
        ]
