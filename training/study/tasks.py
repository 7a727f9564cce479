"""What the study knows of the pretext tasks: how to select them, and their abbreviations."""

import importlib
from collections.abc import Sequence
from typing import Any

from common.config import Pretrain
from common.errors import UserError

RENAMED = {"rotation": ("rotation", "angle"), "adversarial": ("agreement",)}
ABBREVIATIONS = {
    "rotation": "PRT",
    "segmentation": "PST",
    "classification": "PCT",
    "adversarial": "adversarial",
}


def abbreviation(task: str) -> str:
    """The abbreviation of a task's name, such as ``PRT``."""
    registry = getattr(importlib.import_module("training.pretrain.tasks"), "TASKS", None)
    return registry[task].abbreviation if registry else ABBREVIATIONS[task]


def with_tasks(pretrain: Pretrain, selected: Sequence[str], key: str) -> Pretrain:
    """The section with weight 0 for every task that is not `selected`.

    Raises:
        UserError: `key`, the setting that selects them, names a task without settings.
    """
    tasks: Any = pretrain.tasks
    known = tasks if isinstance(tasks, dict) else ABBREVIATIONS
    if unknown := [task for task in selected if task not in known]:
        raise UserError(f"{key} lists the task {unknown[0]}; pretrain.tasks has {', '.join(known)}")
    if isinstance(tasks, dict):
        blocks = {
            task: block if task in selected else {**block, "weight": 0.0} for task, block in tasks.items()
        }
        return pretrain.model_copy(update={"tasks": blocks})
    active = {name for task in selected for name in RENAMED.get(task, (task,))}
    weights = {name: weight if name in active else 0.0 for name, weight in tasks.model_dump().items()}
    return pretrain.model_copy(update={"tasks": tasks.model_copy(update=weights)})


def run_provenance(*arguments: Any) -> dict[str, Any]:
    """The record of a pre-training run."""
    resume = importlib.import_module("training.pretrain.resume")
    return (getattr(resume, "run_provenance", None) or resume.run_facts)(*arguments)
