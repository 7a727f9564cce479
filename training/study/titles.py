"""What tables and plots call the initialisations."""

from common.config import Study
from training.study.grid import SCRATCH, SEMI
from training.study.tasks import abbreviation


def title(settings: Study, initial: str) -> str:
    """The title of an initialisation: the abbreviations of its pretext tasks, such as ``PRT + PST``."""
    if initial == SCRATCH:
        return "from scratch"
    name = initial.removeprefix(SEMI)
    tasks = " + ".join(abbreviation(task) for task in settings.pretrainings[name])
    return f"{tasks}, semi-supervised" if initial != name else tasks
