"""What the result page shows, as plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Run:
    """One fine-tuned classifier and its scores on the test split.

    Attributes:
        name, initial: such as ``pretrained-5%`` and ``pretrained``.
        labels: share of the labelled train faces, or the path of a list. faces: how many these are.
        steps, seconds: of training.
        means: mean of each score over the attributes, 0..1 or None.
        attributes: by attribute the scores, 0..1 or None, and the ``threshold``.
        intervals: [low, high] of each mean. gains: over the run from scratch, by score ``value`` and
            ``interval``. gaps, reliability: as in `training.evaluate.scoring.Scored`. Empty where unknown.
        facts: what else is known of its training, by title.
    """

    name: str
    initial: str
    labels: float | str
    faces: int
    steps: int
    seconds: float
    means: Mapping[str, float | None]
    attributes: Mapping[str, Mapping[str, float | None]]
    intervals: Mapping[str, Sequence[float] | None]
    gains: Mapping[str, Mapping[str, Any]]
    gaps: Mapping[str, Mapping[str, Any]]
    reliability: Sequence[Mapping[str, float]]
    facts: Mapping[str, float]


@dataclass(frozen=True)
class Split:
    """Counts of one split; ``identities`` is 0 where none are known."""

    name: str
    faces: int
    labelled: int
    identities: int
    shards: int


@dataclass(frozen=True)
class Face:
    """A sample: uint8 RGB (S, S, 3), mask uint8 (S, S), and the facts of its JSON member."""

    key: str
    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Presence:
    """Where parts are, over `samples` samples.

    Attributes:
        samples: how many.
        cells: float64 (G, G, 19), share of samples with the class in the cell.
        faces: float64 (19,), share of samples with the class anywhere.
    """

    samples: int
    cells: NDArray[np.float64]
    faces: NDArray[np.float64]


@dataclass(frozen=True)
class Pretraining:
    """Stage 1: its metrics, samples per batch, (step, value) curves by name, and chance levels."""

    metrics: Mapping[str, Any]
    batch_size: int
    curves: Mapping[str, Sequence[tuple[float, float]]]
    chance: Mapping[str, float]


@dataclass(frozen=True)
class Cost:
    """A stage's wall clock in seconds, the cores that it had, and what it worked on."""

    stage: str
    seconds: float
    cores: int
    work: str


@dataclass(frozen=True)
class StudyLine:
    """One initialisation and score of the study: (labelled faces, mean, deviation) over `seeds`."""

    initial: str
    score: str
    points: Sequence[tuple[float, float, float]]
    seeds: int


@dataclass(frozen=True)
class ActivationMap:
    """Where a branch looks for an attribute: the picture as a data URI."""

    name: str
    branch: str
    picture: str


@dataclass(frozen=True)
class Mistake:
    """A wrong prediction: the face, the attribute, the probability of a yes, and the label."""

    face: Face
    attribute: str
    probability: float
    label: bool


@dataclass(frozen=True)
class Results:
    """All that the page shows.

    Attributes:
        dataset: name of the data set.
        sources: inputs in all, None if unknown.
        splits: counts. refused: (reason, count), most first.
        faces, faces_split: some samples, and the split that they are from.
        presence: None without samples. pretraining: None if there was none.
        runs: fewest labels first, from scratch before pre-trained. majority: None without runs.
        test_faces: test faces with a label.
        finetuning: curves of stage 2, (step, value) by run and name. costs: in the order of the stages.
        study: lines of the label-efficiency study. maps: activation maps.
        mistakes: of which run, and which.
        config: YAML text. commands: shell lines. versions: (package, version).
        shards_sha256: of shards.parquet. commit: None outside a checkout.
    """

    dataset: str
    sources: int | None
    splits: Sequence[Split]
    refused: Sequence[tuple[str, int]]
    faces: Sequence[Face]
    faces_split: str
    presence: Presence | None
    pretraining: Pretraining | None
    runs: Sequence[Run]
    majority: Run | None
    test_faces: int
    finetuning: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]
    costs: Sequence[Cost]
    study: Sequence[StudyLine]
    maps: Sequence[ActivationMap]
    mistakes: tuple[Run | None, Sequence[Mistake]]
    config: str
    commands: Sequence[str]
    shards_sha256: str
    versions: Sequence[tuple[str, str]]
    commit: str | None
