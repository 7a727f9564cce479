"""What tables and plots call the initialisations."""

from common.config import Study
from training.pretrain.tasks import TASKS
from training.study.grid import SCRATCH, SEMI


def title(settings: Study, initial: str) -> str:
    """The title of an initialisation: the abbreviations of its pretext tasks, such as ``PRT + PST``."""
    if initial == SCRATCH:
        return "from scratch"
    name = initial.removeprefix(SEMI)
    tasks = " + ".join(TASKS[task].abbreviation for task in settings.pretrainings[name])
    return f"{tasks}, semi-supervised" if initial != name else tasks
