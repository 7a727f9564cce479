"""Checkpoints: written atomically, the latest of a run kept, loaded without executing any code, resumed."""

import json
import pickle
import signal
import struct
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any, Final, Protocol

import torch

from common.config import Config
from common.errors import UserError
from common.files import write_bytes
from common.hardware import hardware
from common.storage import Address
from training.engine.distributed import Ranks

KEEP: Final = 2  # How many of a run's latest checkpoints stay, so that a truncated one is no loss


def save(path: Address, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, and containers of them) atomically."""
    content = BytesIO()  # torch.save itself reports a full disk as a broken invariant
    torch.save(state, content)
    write_bytes(path, content.getbuffer())


def load(path: Address, made_by: str = "python -m training.run --stage pretrain") -> dict[str, Any]:
    """Read a checkpoint onto the CPU; `made_by` is the command that writes it, for the error message.

    Raises:
        UserError: the file is missing or not a checkpoint.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; `{made_by}` writes it")
    try:
        with path.open("rb") as stream:
            content = torch.load(stream, map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, EOFError, OSError, struct.error, pickle.UnpicklingError) as error:
        raise UserError(
            f"{path}: not a readable checkpoint ({fault(path)}); delete it and train again"
        ) from error
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise UserError(f"{path}: not a checkpoint but a {kind}; name a file that `{made_by}` writes")
    return content


def fault(path: Address) -> str:
    """Why a file holds no weights that can be read, as its first bytes tell."""
    with path.open("rb") as stream:
        head = stream.read(256).lstrip()
    if head.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS instead of the file; `git lfs pull` gets it"
    if head.startswith(b"<"):
        return "a web page instead of the file; download it again"
    if head.startswith(b"PK"):
        return "it is truncated, or holds a pickled object instead of its state_dict()"
    return "it is truncated or of another format" if head else "it is empty"


def latest(folder: Path, title: str) -> tuple[Path, dict[str, Any]] | None:
    """The latest checkpoint that can be read, or None; lines with the `title` name those that cannot."""
    for path in _paths(folder):
        try:
            return path, load(path)
        except UserError as error:
            print(f"{title}: skipped {error}")
    return None


class Resumable(Protocol):
    """A `Trainer`; without its name, as whoever loads a file does not run its code."""

    done: int | None

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken."""


@dataclass
class Checkpoints:
    """The checkpoints of one run in a folder, which the first process writes and reads for all.

    A checkpoint is resumed across edits of the code, with a notice: the settings and the shards decide
    whether it is of the same run. Whoever needs results of one code alone adds ``--resume never``.
    """

    title: str  # of the run, for messages
    folder: Path
    config: Config  # says how many minutes lie between two of them; stored beside the weights
    # What the weights depend on, of which ``code`` is the hash of the code, see `common.freshness.code_hash`.
    made_from: Mapping[str, Any]
    ranks: Ranks
    _written: float = field(default_factory=time.monotonic)
    _step: int = 0

    @property
    def provenance(self) -> dict[str, Any]:
        """What the weights depend on but the code."""
        return {key: value for key, value in self.made_from.items() if key != "code"}

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
        newest, differing = latest(self.folder, self.title) if self.ranks.first else None, list[str]()
        if newest is not None:
            differing = differences(newest[1].get("provenance", {}), self.provenance)
        # Other processes may have an output of their own.
        newest, differing = self.ranks.broadcast((newest, differing))
        if newest is None:
            return 0
        path, stored = newest
        if differing and mode != "anyway":
            if self.ranks.first:
                names = (self.folder.with_name(f"{self.folder.name}-{number}") for number in count(1))
                kept = self.folder.rename(next(name for name in names if not name.exists()))
                print(
                    f"{self.title}: starting anew, because {path} is of another run "
                    f"({'; '.join(differing)}); its checkpoints are kept in {kept}"
                )
            return 0
        try:
            run.restore(stored["state"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise UserError(
                f"{path} cannot be continued: its weights do not fit the network that is configured now "
                f"({'; '.join(differing)}); delete {self.folder} to start anew"
            ) from error
        run.done = self._step = int(stored["step"])
        if self.ranks.first:
            changed = f" in spite of {'; '.join(differing)}" if differing else ""
            print(f"{self.title}: resuming at step {self._step:,}{changed}")
            if stored["code"] != self.made_from["code"]:
                print(f"{self.title}: the code has changed since")
        return self._step

    def save_due(self, run: Resumable, number: int) -> None:
        """Write a checkpoint if the last is old, or before a signal, `number` if any, exits by SystemExit."""
        if number or time.monotonic() - self._written > 60 * self.config.trainer.checkpoint_minutes:
            self.save(run)
        if number and self.ranks.first:
            print(
                f"{self.title}: stopped by {signal.Signals(number).name} after step {run.done:,}; "
                "the same command continues from there",
                file=sys.stderr,
            )
        if number:
            sys.exit(128 + number)

    @contextmanager
    def saving_on_error(self, run: Resumable) -> Iterator[None]:
        """Write a checkpoint before an error ends the run, unless it hit the weights between two steps."""
        try:
            yield
        except Exception as error:
            self.save(run, survivor=not isinstance(error, UserError))
            raise

    def save(self, run: Resumable, survivor: bool = False) -> None:
        """Write the checkpoint of the steps that are done, unless it is written, and keep the latest `KEEP`.

        The first process does it, or a `survivor` of an error that may have ended the first one.
        """
        if not (self.ranks.first or survivor) or not run.done or run.done == self._step:
            return
        self._step = run.done
        stored = {
            "step": run.done,
            "provenance": self.provenance,
            "config": self.config.model_dump(mode="json"),
            "code": self.made_from["code"],
            "hardware": hardware().name,
            "state": run.state(),
        }
        save(self.folder / f"step-{run.done:09d}.pt", stored)  # names sort like steps
        for path in _paths(self.folder)[KEEP:]:
            path.unlink(missing_ok=True)
        self._written = time.monotonic()

    def clear(self) -> None:
        """Delete them."""
        if not self.ranks.first:
            return
        for path in _paths(self.folder):
            path.unlink()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


def _paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.pt"), reverse=True)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], within: str = "") -> list[str]:
    """What differs between two nested mappings, such as ``pretrain.batch_size: 64 -> 32``, in key order."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differences(before, after, f"{within}{key}.")
        elif before != after:
            values = [json.dumps(side[key]) if key in side else "none" for side in (old, new)]
            lines.append(f"{within}{key}: {' -> '.join(values)}")
    return lines


class StopRequest:
    """The number of the signal that requested that the run stop; 0 if there was none."""

    number = 0


@contextmanager
def stop_requests(second_interrupts: bool) -> Iterator[StopRequest]:
    """Record Ctrl-C and SIGTERM instead of ending at once, so that the run stops after its current step.

    With `second_interrupts` a second Ctrl-C interrupts at once; not under ``torchrun``, which sends every
    process again the signal that the terminal has already sent.
    """
    request = StopRequest()

    def record(number: int, frame: FrameType | None) -> None:
        if second_interrupts and request.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.number = number

    before = {number: signal.signal(number, record) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
