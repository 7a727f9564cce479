"""What changes while stage 1 trains: weights, their averages, both optimisers, and what was measured."""

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch_ema import ExponentialMovingAverage

from common.config import Config, Pretrain
from training.engine.distributed import Ranks
from training.engine.optim import adam
from training.engine.seeds import set_seed
from training.pretrain.model import PretrainModel
from training.pretrain.tasks.adversarial import Discriminator

KEPT_VALUES = 5
"""Logged values that the final metrics are means of."""


class Stage:
    """The model and the discriminator, their optimisers, and the run's clock.

    Attributes:
        model: the weights; checkpoints and averages are of these.
        forward: `model` as it trains, compiled and shared by the processes where asked for.
        seconds, waited: time of all steps so far without validations, and how much of it the data took.
        seen: the last logged values by name.
    """

    def __init__(self, config: Config, ranks: Ranks) -> None:
        settings = config.pretrain
        set_seed(settings.seed)
        model = PretrainModel(config)
        discriminator = Discriminator(model.network.channels)
        model.to(ranks.device).to(memory_format=torch.channels_last)
        self.model: PretrainModel = ranks.synchronise_batch_norm(model)  # type: ignore[assignment]
        self.discriminator = discriminator.to(ranks.device).requires_grad_(False)
        self.forward: nn.Module = ranks.wrap(
            torch.compile(self.model) if settings.compile else self.model  # type: ignore[arg-type]
        )
        self.optimizer = adam(self.model, settings.optimizer)
        self.opponent = adam(self.discriminator, settings.optimizer)
        self.average = ExponentialMovingAverage(self.model.parameters(), settings.average_decay)
        self.seconds, self.waited = 0.0, 0.0
        self.seen: dict[str, list[float]] = {}
        self._tick = time.monotonic()

    def sharing(self, last: bool) -> AbstractContextManager[None]:
        """Share gradients between the processes only in the `last` part of a step."""
        if last or not isinstance(self.forward, DistributedDataParallel):
            return nullcontext()
        return self.forward.no_sync()

    def start_clock(self) -> None:
        """Count time from now; what lies between the last tick and now, such as a validation, is left out."""
        self._tick = time.monotonic()

    def tick(self) -> None:
        """Add the time since the last tick, or since the clock started, to `seconds`."""
        now = time.monotonic()
        self.seconds += now - self._tick
        self._tick = now

    def speed(self, done: int, settings: Pretrain) -> dict[str, float]:
        """Samples per second, share of time spent waiting for data, and minutes left, after `done` steps."""
        return {
            "samples_per_second": settings.batch_size * done / self.seconds,
            "waiting": self.waited / self.seconds,
            "minutes_left": (settings.steps - done) * self.seconds / done / 60,
        }

    def note(self, values: Mapping[str, float]) -> None:
        """Keep logged values for the final metrics."""
        for name, value in values.items():
            self.seen[name] = [*self.seen.get(name, []), value][-KEPT_VALUES:]

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, beside its number.

        Schedules, the position in the data and every random state follow from the number of the
        step and the seed.
        """
        names = ("model", "discriminator", "optimizer", "opponent", "average")
        return {
            **{name: getattr(self, name).state_dict() for name in names},
            "seconds": self.seconds,
            "waited": self.waited,
            "seen": self.seen,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        for name in ("model", "discriminator", "optimizer", "opponent", "average"):
            getattr(self, name).load_state_dict(state[name])
        self.seconds, self.waited, self.seen = state["seconds"], state["waited"], state["seen"]
