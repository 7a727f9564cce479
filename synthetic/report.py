"""The README.md that is written into every sample set."""

from textwrap import fill
from typing import Final

from synthetic.frequencies import COIN_ODDS, DRAWN_ATTRIBUTES

README_TITLE: Final = "# Painted portraits in CelebA's layout"
"""First line of the file, by which an earlier sample set is recognised."""

MEASURED: Final = """\
RetinaFace (mobile0.25, threshold 0.97) finds exactly one face in each of 500 portraits of seed 1. BiSeNet at
512 pixels agrees with their masks with a mean F1 of 0.65 over 18 face regions, and 0.80 with left and right
brow, eye and ear as one.
"""


def readme(count: int, seed: int, wild: bool) -> str:
    """Return the text of a set's README.md."""
    folder = "img_celeba" if wild else "img_align_celeba"
    kind = (
        "Images of 360 to 560 pixels with one face anywhere, tilted by up to 30 degrees"
        if wild
        else "Images of 178 x 218 with the eyes where CelebA's alignment puts them"
    )
    command = f"python -m synthetic --output DIR --count {count} --seed {seed}" + " --wild" * wild
    landmarks = "list_landmarks_celeba.txt" if wild else "list_landmarks_align_celeba.txt"
    return f"""\
{README_TITLE}

{count} head-and-shoulder portraits of people who do not exist, painted by `{command}`.
No photograph was used.

- `{folder}/NNNNNN.jpg`: {kind}.
- `masks/NNNNNN.png`: the exact 19-class parsing mask of each image, 8-bit indices in the order of
  `common.classes.CLASSES` (facexlib's). Left and right are the subject's. As in hand-made masks, spectacles
  include their lenses, hoop earrings what they enclose, and a beard is skin.
- `list_attr_celeba.txt`, `identity_CelebA.txt`, `list_eval_partition.txt`, `{landmarks}`:
  CelebA's official files. Partitions are by identity, about 70 / 10 / 20 %.

## Attributes

Drawn, hence visible:
{_wrapped(DRAWN_ATTRIBUTES)}

Not drawn, but decided at random with CelebA's frequency, independent of the image:
{_wrapped(tuple(COIN_ODDS))}

The frequencies and the dependence on sex and age follow CelebA's attribute file.

## How real the portraits look to real models

{MEASURED}"""


def _wrapped(names: tuple[str, ...]) -> str:
    return fill(", ".join(names) + ".", 100, break_on_hyphens=False)
