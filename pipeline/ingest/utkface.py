"""Adapter for UTKFace: the labels are in the file names, ``age_gender_race_date.jpg``.

``25_0_2_20170116174525125.jpg`` is 25 years old, gender 0 (male; 1 is female), race 2; UTKFace's numbers
(https://susanqq.github.io/UTKFace/). Folders may be nested as in its archives (``part1/``). The photos of one
time stamp are one person, because a face is in the archive of cropped faces and in that of whole photos under
the same stamp. An age becomes one of nine yes/no attributes, in the groups of FairFace (Karkkainen and Joo,
2021); a race one of five. Sources with other names, of which UTKFace has a few, are kept without a label.
"""

import re
from typing import Final

from common.errors import UserError
from common.input_files import FileTree, photos
from pipeline.ingest.listing import Listing, Source

NAME: Final = re.compile(r"(\d{1,3})_([01])_([0-4])_\d{10,}\.")
STAMP: Final = re.compile(r"_(\d{10,})\.")
# First and last year of each group; UTKFace's ages end at 116.
AGES: Final = ((0, 2), (3, 9), (10, 19), (20, 29), (30, 39), (40, 49), (50, 59), (60, 69), (70, 116))
RACES: Final = ("White", "Black", "Asian", "Indian", "Other_Race")
ATTRIBUTES: Final = ("Male", *(f"Age_{first}_{last}" for first, last in AGES), *RACES)


def recognised(tree: FileTree) -> bool:
    """Whether at least half of the images in a folder have UTKFace's names.

    Raises:
        UserError: some have, but fewer than half.
    """
    fitting = 0 if tree.is_file else sum(labels_of(path) is not None for path in tree.images)
    if 0 < 2 * fitting < len(tree.images):
        raise UserError(
            f"{fitting:,} of the {len(tree.images):,} images in {tree.path} have names like UTKFace's, which "
            "hold labels; read them with --format utkface, or leave them out with --format folder"
        )
    return fitting > 0


def read(tree: FileTree) -> Listing:
    """List all images below the input with the labels in their names."""
    files, remarks = photos(tree)
    sources = []
    for file in files:
        stamp = STAMP.search(file.path.rpartition("/")[2])
        sources.append(Source(file.path, None, stamp and stamp[1], labels_of(file.path), file.refused))
    return Listing(sources, ATTRIBUTES, False, remarks)


def labels_of(path: str) -> tuple[int, ...] | None:
    """The labels in a file's name, 0 or 1 per name in `ATTRIBUTES`; None if it has none."""
    match = NAME.match(path.rpartition("/")[2])
    if not match or int(match[1]) > AGES[-1][1]:
        return None
    age, gender, race = (int(number) for number in match.groups())
    ages = (int(first <= age <= last) for first, last in AGES)
    return (int(gender == 0), *ages, *(int(race == number) for number in range(len(RACES))))
