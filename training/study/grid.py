"""The grid of the study: arms x draws, each with every amount of labels, and where their results lie.

An arm is a method, for a method that starts from stage 1 together with a pre-training. A draw is a seed of
stage 2: of the labelled faces, the new heads, the order and the augmentation.
"""

from dataclasses import dataclass
from pathlib import Path

from common.config import Config, Study
from common.errors import UserError
from training.methods.method import Method
from training.methods.registry import find_method
from training.models.pretrained import FILE
from training.pretrain.tasks import TASKS


@dataclass(frozen=True)
class Arm:
    """What is compared.

    Attributes:
        method: of stage 2.
        pretraining: the name of the pre-training that it starts from; None for methods that start from none.
    """

    method: Method
    pretraining: str | None

    def __str__(self) -> str:
        return f"{self.method.name}-{self.pretraining}" if self.pretraining else self.method.name

    def title(self, settings: Study) -> str:
        """What tables and plots call it; with several pre-trainings, their tasks' abbreviations follow."""
        if self.pretraining is None or len(settings.pretrainings) == 1:
            return self.method.title
        tasks = settings.pretrainings[self.pretraining]
        return f"{self.method.title}, {' + '.join(TASKS[task].abbreviation for task in tasks)}"


def arms(settings: Study) -> list[Arm]:
    """All arms, in the order of the table.

    Raises:
        UserError: there is no such method.
    """
    methods = [find_method(name) for name in settings.methods]
    return [
        Arm(method, pretraining)
        for method in methods
        for pretraining in (settings.pretrainings if method.pretrained else (None,))
    ]


def find_arm(settings: Study, name: str) -> Arm:
    """The arm with a name.

    Raises:
        UserError: the study has none.
    """
    known = {str(arm): arm for arm in arms(settings)}
    if name not in known:
        raise UserError(f"the study has no {name}; with study.* as it is, {', '.join(known)}")
    return known[name]


def pretraining_config(config: Config, name: str, seed: int = 0) -> Config:
    """The configuration of one pre-training: tasks that it does not list get weight 0, others that have
    none get 1. `seed` is added to that of stage 1.

    Raises:
        UserError: the study has no such pre-training.
    """
    if name not in config.study.pretrainings:
        known = ", ".join(config.study.pretrainings)
        raise UserError(f"the study has no pre-training {name}; study.pretrainings has {known}")
    selected = config.study.pretrainings[name]
    tasks = {
        task: {**block, "weight": (block["weight"] or 1.0) if task in selected else 0.0}
        for task, block in config.pretrain.tasks.items()
    }
    changes = {"tasks": tasks, "seed": config.pretrain.seed + seed}
    return config.model_copy(update={"pretrain": config.pretrain.model_copy(update=changes)})


def draw_config(config: Config, arm: Arm, draw: int) -> Config:
    """The configuration of one draw of an arm, evaluated without intervals and subgroups, which a study does
    not hold.
    """
    finetune = {"seed": config.finetune.seed + draw, "methods": [arm.method.name]}
    return config.model_copy(
        update={
            "finetune": config.finetune.model_copy(update=finetune),
            "evaluate": config.evaluate.model_copy(update={"resamples": 1, "subgroups": []}),
        }
    )


def pretrained_file(root: Path, name: str, seed: int) -> Path:
    """The weights of a pre-training with a seed, below the study's folder `root`."""
    return root / "pretrain" / f"{name}-seed{seed}" / FILE


def draw_folder(root: Path, arm: Arm, draw: int) -> Path:
    """The folder of one draw of an arm: its runs as stage 2 writes them, their evaluation and scores."""
    return root / "draws" / str(arm) / f"draw{draw}"
