"""The pretext tasks of stage 1 by name, one file each; `base` says what a task consists of."""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from common.errors import UserError
from training.pretrain.tasks.adversarial import AdversarialTask
from training.pretrain.tasks.base import PretextTask, TaskConfig
from training.pretrain.tasks.classification import ClassificationTask
from training.pretrain.tasks.rotation import RotationTask
from training.pretrain.tasks.segmentation import SegmentationTask

__all__ = ["TASKS", "PretextTask", "read_settings"]
# In the order of losses and tables.
TASKS: Final[dict[str, type[PretextTask[Any]]]] = {
    task.name: task for task in (SegmentationTask, ClassificationTask, RotationTask, AdversarialTask)
}


def read_settings(blocks: Mapping[str, Mapping[str, Any]]) -> dict[str, TaskConfig]:
    """The validated settings in ``pretrain.tasks`` of the tasks that have a weight, in the order of `TASKS`.

    Raises:
        UserError: names an unknown task, or a missing, unknown or wrong setting; or no task has a weight.
    """
    if unknown := [name for name in blocks if name not in TASKS]:
        raise UserError(f"pretrain.tasks.{unknown[0]}: there is no such task; known are {', '.join(TASKS)}")
    settings = {}
    for name in (name for name in TASKS if name in blocks):
        try:
            settings[name] = TASKS[name].config_class.model_validate(dict(blocks[name]))
        except ValidationError as error:
            place = f"pretrain.tasks.{name}"
            lines = [f"{'.'.join(map(str, (place, *e['loc'])))}: {e['msg']}" for e in error.errors()]
            raise UserError("invalid configuration: " + "; ".join(lines)) from error
    active = {name: config for name, config in settings.items() if config.weight > 0}
    if not active:
        raise UserError("every task has weight 0; give one of pretrain.tasks a weight")
    return active
