"""Stopping and resuming: the checkpoints of one run, and what decides whether one is continued."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from signal import Signals
from typing import Any, Protocol

from common.config import Config
from common.errors import UserError
from common.hardware import hardware
from training.engine import checkpoint
from training.engine.distributed import Ranks


class Resumable(Protocol):
    """What a checkpoint holds.

    Attributes:
        done: how many steps are done; None while the weights are between two steps.
    """

    done: int | None

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken."""


@dataclass
class Checkpoints:
    """The checkpoints of one run.

    A checkpoint is resumed across edits of the code, with a notice: the settings and the shards decide
    whether it is of the same run. Whoever needs results of one code alone adds ``--resume never``.

    Attributes:
        title: of the run, for messages.
        folder: where they lie.
        minutes: between two of them.
        keep: how many of the latest stay.
        config: stored beside the weights.
        provenance: what the weights depend on.
        code: the hash of the code, see `common.freshness.code_hash`.
        ranks: all processes restore the same; the first prints, writes and deletes.
    """

    title: str
    folder: Path
    minutes: float
    keep: int
    config: Config
    provenance: dict[str, Any]
    code: str
    ranks: Ranks
    _written: float = field(default_factory=time.monotonic)
    _step: int = 0

    def resume(self, run: Resumable, mode: str) -> int:
        """Restore the latest checkpoint into `run`; return the number of steps that it has done.

        Args:
            run: changed in place.
            mode: ``auto`` continues if the checkpoint is of the same run, else keeps it beside, says what
                differs and starts anew; ``anyway`` continues even if it is of other shards or settings;
                ``never`` deletes it and starts anew.

        Raises:
            UserError: the weights do not fit.
        """
        if mode == "never":
            self.clear()
            return 0
        latest = checkpoint.latest(self.folder, self.title, notices=self.ranks.first)
        if latest is None:
            return 0
        path, stored = latest
        differences = checkpoint.differences(stored.get("provenance", {}), self.provenance)
        if differences and mode != "anyway":
            # Other processes that read the folder while it is moved start anew as well.
            if self.ranks.first:
                kept = checkpoint.set_aside(self.folder)
                print(
                    f"{self.title}: starting anew, because {path} is of another run "
                    f"({'; '.join(differences)}); its checkpoints are kept in {kept}"
                )
            return 0
        try:
            run.restore(stored["state"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise UserError(
                f"{path} cannot be continued: its weights do not fit the network that is configured now "
                f"({'; '.join(differences)}); delete {self.folder} to start anew"
            ) from error
        run.done = self._step = int(stored["step"])
        if self.ranks.first:
            changed = f" in spite of {'; '.join(differences)}" if differences else ""
            print(f"{self.title}: resuming at step {self._step:,}{changed}")
            if stored["code"] != self.code:
                print(f"{self.title}: the code has changed since")
        return self._step

    def save_due(self, run: Resumable, signal: int) -> None:
        """Write a checkpoint if the last one is old, or if a signal requested that the run stop.

        Raises:
            SystemExit: `signal`, the largest number of any process, is not 0.
        """
        if signal or time.monotonic() - self._written > 60 * self.minutes:
            self.save(run)
        if signal and self.ranks.first:
            print(
                f"{self.title}: stopped by {Signals(signal).name} after step {run.done:,}; "
                "the same command continues from there",
                file=sys.stderr,
            )
        if signal:
            sys.exit(128 + signal)

    @contextmanager
    def saving_on_error(self, run: Resumable) -> Iterator[None]:
        """Write a checkpoint before an error ends the run, unless it hit the weights between two steps."""
        try:
            yield
        except Exception:
            self.save(run)
            raise

    def save(self, run: Resumable) -> None:
        """Write the checkpoint of the steps that are done; nothing if it has been written."""
        if not self.ranks.first or not run.done or run.done == self._step:
            return
        self._step = run.done
        stored = {
            "provenance": self.provenance,
            "config": self.config.model_dump(mode="json"),
            "code": self.code,
            "hardware": hardware().name,
            "state": run.state(),
        }
        checkpoint.save_step(self.folder, run.done, self.keep, stored)
        self._written = time.monotonic()

    def clear(self) -> None:
        """Delete them."""
        if self.ranks.first:
            checkpoint.clear(self.folder)
