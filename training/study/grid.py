"""The cells of the study, the settings of each, and where their results lie."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from common.config import Config, FinetuneRun
from common.errors import UserError
from training.models.pretrained import FILE

SCRATCH: Final = "scratch"
"""The initialisation without pre-training."""

SEMI: Final = "semi-"
"""What the name of an initialisation begins with that is fine-tuned with unlabelled faces too;
the pre-training that it starts from follows."""

TASKS: Final = {
    "rotation": ("rotation", "angle"),
    "segmentation": ("segmentation",),
    "classification": ("classification",),
    "joint": ("rotation", "angle", "segmentation", "classification"),
    "full": ("rotation", "angle", "segmentation", "classification", "agreement"),
}
"""The tasks that take part in each pre-training; PRT has two answers, which tile and what angle."""

TITLES: Final = {
    SCRATCH: "from scratch",
    "rotation": "PRT only",
    "segmentation": "PST only",
    "classification": "PCT only",
    "joint": "PRT + PST + PCT",
    "full": "full SSPL",
}
"""What tables and plots call the initialisations."""


@dataclass(frozen=True)
class Cell:
    """One fine-tuning: where it starts, how many labels it sees, and which seed draws them.

    Attributes:
        initial: ``scratch``, the name of a pre-training, or ``semi-`` and that name.
        labels: share of the labelled train faces.
        steps: optimisation steps.
        seed: of the subset, the order, the augmentation and the new heads.
    """

    initial: str
    labels: float
    steps: int
    seed: int

    @property
    def mode(self) -> Literal["scratch", "pretrained", "semi"]:
        """How it is fine-tuned."""
        if self.initial == SCRATCH:
            return "scratch"
        return "semi" if self.initial.startswith(SEMI) else "pretrained"

    @property
    def pretraining(self) -> str | None:
        """The pre-training that it starts from."""
        return None if self.initial == SCRATCH else self.initial.removeprefix(SEMI)


def initials(config: Config) -> list[str]:
    """All initialisations of the study, in the order of the table."""
    return [SCRATCH, *config.study.pretrainings, *(SEMI + name for name in config.study.semi)]


def title(initial: str) -> str:
    """What tables and plots call an initialisation."""
    name = initial.removeprefix(SEMI)
    return f"semi-supervised from {name}" if name != initial else TITLES[initial]


def cells(
    config: Config, only: str | None = None, labels: Sequence[float] = (), seeds: Sequence[int] = ()
) -> list[Cell]:
    """The cells of one or all initialisations; by default of all label shares and seeds of the study.

    Raises:
        UserError: the study has no such initialisation or label share.
    """
    known = initials(config)
    if only is not None and only not in known:
        raise UserError(
            f"the study has no initialisation {only}; it has {', '.join(known)} (study.* decides)"
        )
    steps = dict(zip(config.study.labels, config.study.steps, strict=True))
    unknown = [share for share in labels if share not in steps]
    if unknown:
        shares = ", ".join(f"{share:g}" for share in steps)
        raise UserError(f"the study has no label share {unknown[0]:g}; study.labels has {shares}")
    return [
        Cell(initial, share, steps[share], seed)
        for initial in ([only] if only else known)
        for share in labels or config.study.labels
        for seed in seeds or config.study.seeds
    ]


def pretraining_config(config: Config, name: str) -> Config:
    """The configuration of one pre-training: tasks that take no part get weight 0.

    Raises:
        UserError: the study has no such pre-training.
    """
    if name not in config.study.pretrainings:
        known = ", ".join(config.study.pretrainings)
        raise UserError(f"the study has no pre-training {name}; study.pretrainings has {known}")
    weights = {
        task: weight if task in TASKS[name] else 0.0
        for task, weight in config.pretrain.tasks.model_dump().items()
    }
    tasks = config.pretrain.tasks.model_copy(update=weights)
    return config.model_copy(update={"pretrain": config.pretrain.model_copy(update={"tasks": tasks})})


def cell_config(config: Config, cell: Cell) -> Config:
    """The configuration of one cell: a single fine-tuning run."""
    changes = {
        "seed": cell.seed,
        "runs": [FinetuneRun(labels=cell.labels, steps=cell.steps)],
        "initial": [cell.mode],
    }
    return config.model_copy(update={"finetune": config.finetune.model_copy(update=changes)})


def cell_settings(config: Config, cell: Cell) -> dict[str, Any]:
    """What of a cell's own configuration its result depends on, as JSON values."""
    irrelevant = {"loader_workers"} if cell.mode == "semi" else {"loader_workers", "semi_supervised"}
    return {
        "network": config.network.model_dump(mode="json"),
        "finetune": config.finetune.model_dump(mode="json", exclude=irrelevant),
    }


def pretrained_file(root: Path, name: str) -> Path:
    """Where the result of a pre-training lies below the study's folder."""
    return root / "pretrain" / name / FILE


def cell_file(root: Path, cell: Cell) -> Path:
    """Where the result of a cell lies below the study's folder."""
    return root / "cells" / cell.initial / f"{cell.labels}-seed{cell.seed}.json"
