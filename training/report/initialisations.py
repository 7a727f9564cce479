"""What the page calls initialisations, and their colours."""

from collections.abc import Iterable
from typing import Final

from common.page.formats import words
from training.evaluate.scoring import SCRATCH

TITLES: Final = {
    SCRATCH: "from scratch",
    "probe": "linear probe",
    "embedding_probe": "embedding probe",
    "region_probe": "region probe",
    "pretrained": "pre-trained",
    "semi": "pre-trained, semi-supervised",
    "student": "student of the region probe",
    "imagenet": "from ImageNet",
}


def title(initial: str) -> str:
    """The title of an initialisation; of one that this module does not know, its name."""
    return TITLES.get(initial, words(initial))


def in_order(initials: Iterable[str]) -> list[str]:
    """The distinct initialisations: those of `TITLES` in its order, then the others as they come."""
    known = list(TITLES)
    return sorted(
        dict.fromkeys(initials), key=lambda name: known.index(name) if name in known else len(known)
    )


def colours(initials: Iterable[str]) -> dict[str, int]:
    """The number of the series colour of each initialisation, by its order."""
    return {initial: number for number, initial in enumerate(in_order(initials))}
