"""The pretext tasks of stage 1 by name, one file each; `base` says what a task consists of."""

from training.pretrain.tasks.base import PretextTask
from training.pretrain.tasks.registry import TASKS, build_tasks, read_settings

__all__ = ["TASKS", "PretextTask", "build_tasks", "read_settings"]
