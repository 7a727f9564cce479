"""The grid of the study, initialisations x label shares x seeds, and where the results of each cell lie."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common.config import Study
from common.errors import UserError
from training.models.pretrained import FILE

SCRATCH: Final = "scratch"
"""The initialisation that pre-trainings are compared with."""

BASELINES: Final = {
    SCRATCH: "from scratch",
    "probe": "linear probe",
    "embedding_probe": "embedding probe",
    "region_probe": "region probe",
}
"""Titles of the initialisations without pre-training."""

SEMI: Final = "semi-"
"""Prefix of the initialisations that are fine-tuned with unlabelled faces too; the name of the pre-training
follows."""

STUDENT: Final = "student-"
"""Prefix of the initialisations that learn the region probe's probabilities; the name of the pre-training
follows."""


@dataclass(frozen=True)
class Cell:
    """One fine-tuning run.

    Attributes:
        initial: its initialisation: one of `BASELINES`, a pre-training, or ``semi-`` or ``student-`` and
            its name.
        labels: share of the labelled train faces.
        steps: optimisation steps; a student has its own number.
        seed: of the label subset, the order, the augmentation and the new heads.
        pretrain_seed: of the pre-training.
    """

    initial: str
    labels: float
    steps: int
    seed: int
    pretrain_seed: int = 0

    @property
    def mode(self) -> str:
        """The entry of ``finetune.initial`` that it is."""
        if self.initial in BASELINES:
            return self.initial
        for prefix in (SEMI, STUDENT):
            if self.initial.startswith(prefix):
                return prefix.removesuffix("-")
        return "pretrained"

    @property
    def pretraining(self) -> str | None:
        """The name of the pre-training whose weights it starts from."""
        return None if self.initial in BASELINES else pretraining_name(self.initial)

    def __str__(self) -> str:
        return f"{self.initial}, {100 * self.labels:g} % of the labels, seed {self.seed}"


def pretraining_name(initial: str) -> str:
    """The pre-training of an initialisation that is none of `BASELINES`."""
    return initial.removeprefix(SEMI).removeprefix(STUDENT)


def initialisations(settings: Study) -> list[str]:
    """All initialisations of the study, in the order of the table."""
    semi, students = (SEMI + name for name in settings.semi), (STUDENT + name for name in settings.student)
    return [SCRATCH, *settings.baselines, *settings.pretrainings, *semi, *students]


def cells(
    settings: Study, only: str | None = None, labels: Sequence[float] = (), seeds: Sequence[int] = ()
) -> list[Cell]:
    """The cells of one initialisation or of all; by default of all label shares and their draws.

    Raises:
        UserError: the study has no such initialisation or label share.
    """
    known = initialisations(settings)
    if only is not None and only not in known:
        raise UserError(f"the study has no initialisation {only}; with study.* as it is, {', '.join(known)}")
    steps = dict(zip(settings.labels, settings.steps, strict=True))
    unknown = [share for share in labels if share not in steps]
    if unknown:
        shares = ", ".join(f"{share:g}" for share in steps)
        raise UserError(f"the study has no label share {unknown[0]:g}; study.labels has {shares}")
    draws = dict(zip(settings.labels, settings.draws, strict=True))
    return [
        Cell(initial, share, steps[share], seed, seed % settings.pretrain_seeds)
        for initial in ([only] if only else known)
        for share in labels or settings.labels
        for seed in seeds or settings.seeds[: draws[share]]
    ]


def pretrained_file(root: Path, name: str, seed: int) -> Path:
    """The weights of a pre-training with a seed, below the study's folder `root`."""
    return root / "pretrain" / f"{name}-seed{seed}" / FILE


def cell_file(root: Path, cell: Cell) -> Path:
    """The result of a cell, below the study's folder `root`."""
    return root / "cells" / cell.initial / f"{cell.labels}-seed{cell.seed}.json"
