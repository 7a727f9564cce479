"""The interface between a stage and the runner: a shard to make, and what a stage does to one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from common.storage import Address

Advance = Callable[[int], None]
"""Reports from within a task that so many more of its rows are done."""


@dataclass(frozen=True)
class ShardTask:
    """One shard to make.

    Attributes:
        tar: the tar to make; its record lies beside it.
        fingerprint: hash of all inputs and settings that the tar's bytes depend on.
        code: hash of the code that they depend on.
        size: rows, for the progress display.
    """

    tar: Address
    fingerprint: str
    code: str
    size: int


Task = TypeVar("Task", bound=ShardTask)


@dataclass(frozen=True)
class ShardStage(Generic[Task]):
    """What a stage does to one shard; all of it is sent to the workers.

    Attributes:
        name: such as ``parse``.
        unit: plural name of a row.
        load: loads the model, called once per worker process.
        make: writes the tar and its record; the sources in the set are excluded and quarantined.
        probe: does to each source by itself what `make` does to it, except for those in the
            set; yields a source's name before it opens the source.
    """

    name: str
    unit: str
    load: Callable[[], object]
    make: Callable[[Task, frozenset[str], Advance], None]
    probe: Callable[[Task, frozenset[str]], Iterator[str]]
