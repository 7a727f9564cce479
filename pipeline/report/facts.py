"""What the data card shows, as plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.record import StageRun


@dataclass(frozen=True)
class Refusal:
    """One reason for which a stage refused sources.

    Attributes:
        stage: ``ingest``, ``align`` or ``parse``.
        reason: the code.
        sources: how many.
        example, detail: the first of them, and what is wrong with it.
    """

    stage: str
    reason: str
    sources: int
    example: str
    detail: str


@dataclass(frozen=True)
class Split:
    """Counts of one split; ``identities`` is 0 where none are known."""

    name: str
    samples: int
    labelled: int
    identities: int
    shards: int


@dataclass(frozen=True)
class Check:
    """A promise of the format, how many values break it, and the first of them."""

    promise: str
    found: int
    examples: Sequence[str]


@dataclass(frozen=True)
class Labels:
    """Labels of all samples, counted.

    Attributes:
        names: of the A attributes.
        yes, known: int64 (4, A), samples with a yes and with any answer, per split of `SPLITS`.
        both_known: int64 (A, A), samples that have both answers.
        both_yes: int64 (A, A), samples with two times yes.
        yes_of_known: int64 (A, A), samples with a yes in the row's attribute and any answer in the column's.
    """

    names: tuple[str, ...]
    yes: NDArray[np.int64]
    known: NDArray[np.int64]
    both_known: NDArray[np.int64]
    both_yes: NDArray[np.int64]
    yes_of_known: NDArray[np.int64]


@dataclass(frozen=True)
class Counts:
    """What the manifests say about all samples.

    Attributes:
        dataset: name of the data set.
        samples: rows of ``shards.parquet``.
        sources: rows of ``source.parquet``, None if it is not there.
        member_bytes: of all members of all samples.
        splits: those that have samples.
        refusals: most first within a stage; None if ``quarantine.parquet`` is not there.
        notices: samples by notice, most first.
        checks: over the whole set.
        confidence: int64 (100,), samples by the parser's mean confidence, in steps of 0.01.
        lowest, highest: positions in the manifest of the samples with the least and the greatest confidence.
        labels: all labels.
        runs: of the stages whose time is known.
        sha256: of ``shards.parquet``.
    """

    dataset: str
    samples: int
    sources: int | None
    member_bytes: int
    splits: Sequence[Split]
    refusals: Sequence[Refusal] | None
    notices: Sequence[tuple[str, int]]
    checks: Sequence[Check]
    confidence: NDArray[np.int64]
    lowest: Sequence[int]
    highest: Sequence[int]
    labels: Labels
    runs: Mapping[str, StageRun]
    sha256: str

    @property
    def refused(self) -> int | None:
        """Sources in the quarantine, if that is known."""
        return None if self.refusals is None else sum(refusal.sources for refusal in self.refusals)

    @property
    def unlabelled(self) -> int:
        """Samples without any label."""
        return self.samples - sum(split.labelled for split in self.splits)


@dataclass(frozen=True)
class Picture:
    """A sample to show: its key, its confidence, and face and mask side by side as a data URI."""

    key: str
    confidence: float | None
    address: str


@dataclass(frozen=True)
class Average:
    """The average face of the samples with one attribute: its place in `Labels.names`, how many, data URI."""

    attribute: int
    samples: int
    address: str


@dataclass(frozen=True)
class Faces:
    """What a bounded share of the samples shows.

    Attributes:
        samples: how many were read.
        sizes: faces by side in pixels, most first.
        parsers: samples by (name, pixels, SHA-256 of the weights), most first.
        cells: float64 (G, G, 19), share of samples with the class in the cell.
        patches: float64 (P, P, 19), the same for patches of whole cells; None if none fit the grid.
        areas: float64 (N, 19), share of each face that each class covers.
        face, mask, usual: data URIs of the average face, of the mixture of all masks' colours, and of the
            class that each pixel has most often.
        averages: per attribute.
        least, most, drawn: pictures by confidence, and at random.
    """

    samples: int
    sizes: Sequence[tuple[int, int]]
    parsers: Sequence[tuple[tuple[str, int, str], int]]
    cells: NDArray[np.float64]
    patches: NDArray[np.float64] | None
    areas: NDArray[np.float64]
    face: str
    mask: str
    usual: str
    averages: Sequence[Average]
    least: Sequence[Picture]
    most: Sequence[Picture]
    drawn: Sequence[Picture]
