"""Selecting the pretext tasks of a pre-training."""

from collections.abc import Sequence

from common.config import Pretrain
from common.errors import UserError


def with_tasks(pretrain: Pretrain, selected: Sequence[str], key: str) -> Pretrain:
    """The section with weight 0 for every task that is not `selected`.

    Raises:
        UserError: `key`, the setting that selects them, names a task without settings.
    """
    if unknown := [task for task in selected if task not in pretrain.tasks]:
        raise UserError(f"{key} lists the task {unknown[0]}; pretrain.tasks has {', '.join(pretrain.tasks)}")
    blocks = {
        task: block if task in selected else {**block, "weight": 0.0}
        for task, block in pretrain.tasks.items()
    }
    return pretrain.model_copy(update={"tasks": blocks})
