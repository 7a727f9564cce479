"""The README.md that is written into every sample set."""

from textwrap import fill
from typing import Final

from synthetic.frequencies import COIN_ODDS, DRAWN_ATTRIBUTES

README_TITLE: Final = "# Painted portraits in CelebA's layout"
"""First line of the file, by which an earlier sample set is recognised."""

MEASURED: Final = """\
Measured on 500 aligned and 200 wild images of seed 1, as JPEG of quality 87, with
`python -m synthetic.measure --weights DIR --count 500 --seed 1` and `--count 200 --seed 1 --wild`
(facexlib 0.3.0, RetinaFace mobile0.25 at threshold 0.97, BiSeNet at 512 on the central 178 x 178 pixels):

| measure | aligned | wild |
|---|---|---|
| images in which RetinaFace detects exactly one face | 100.0 % | 100.0 % |
| mean error of its five landmarks, of the distance between the eyes | 5.89 % | 6.34 % |
| mean F1 of BiSeNet over the 18 face regions | 0.651 | |
| the same with left and right brow, eye and ear as one | 0.803 | |
| F1 of skin, hair, nose | 0.953, 0.951, 0.897 | |
| F1 of upper lip, lower lip, mouth | 0.842, 0.891, 0.835 | |
| F1 of neck, cloth, spectacles, hat | 0.940, 0.850, 0.927, 0.750 | |
| F1 of brows, left and right | 0.342, 0.382 | |
| F1 of eyes, left and right | 0.277, 0.393 | |
| F1 of ears, left and right | 0.415, 0.368 | |
| F1 of earrings, necklace | 0.376, 0.335 | |

BiSeNet takes left for right in 56 % of the pixels of brows, eyes and ears, no better than chance; the masks
here have the subject's left on the image's right, as CelebAMask-HQ has.
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
