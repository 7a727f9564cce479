"""``python -m docs.method_figure``: draws ``docs/method.svg``, the figure of the method."""

import base64
from pathlib import Path
from typing import Final

import cv2
import jinja2
import numpy as np
from numpy.typing import NDArray

from common.classes import CLASS_COLOURS
from common.files import write_text
from synthetic import Portrait, paint_portrait
from synthetic.dataset import draw_identities
from training.pretrain.tasks.patches import ALL

Image = NDArray[np.uint8]

SEED: Final = 1
UNLABELLED, LABELLED = 38, 27
"""Portraits of the sample set with seed `SEED`."""

PATCH: Final = (slice(40, 130), slice(62, 152))
"""Rows and columns of the patch that the figure shows."""

ROTATED, GAP, TOP_CLASSES = 4, 4, 9
"""Number of the rotated patch in reading order, pixels between patches, dominant classes of a patch."""

ATTRIBUTES: Final = ("Smiling", "Bangs", "Wearing_Earrings", "Eyeglasses")


def square(portrait: Portrait) -> tuple[Image, Image]:
    """The central 178 x 178 square of a portrait, uint8 RGB, and its mask, uint8."""
    return portrait.image[20:198], portrait.mask[20:198]


def rotated_patches(face: Image) -> Image:
    """The 3 x 3 patches of a face, cropped as PRT crops them, uint8 RGBA; one is rotated by 90 degrees."""
    side, cut = 59, 52
    sheet = np.zeros((3 * cut + 2 * GAP, 3 * cut + 2 * GAP, 4), np.uint8)
    for number in range(9):
        row, column = divmod(number, 3)
        top, left = row * side + 3, column * side + 3
        patch = face[top : top + cut, left : left + cut]
        y, x = row * (cut + GAP), column * (cut + GAP)
        sheet[y : y + cut, x : x + cut, :3] = np.rot90(patch) if number == ROTATED else patch
        sheet[y : y + cut, x : x + cut, 3] = 255
    return sheet


def targets(mask: Image) -> dict[str, list[tuple[str, bool]]]:
    """By branch: the colour of each of its classes, and whether the class dominates the patch."""
    counts = np.bincount(mask.ravel(), minlength=len(CLASS_COLOURS))
    order = np.argsort(-counts, kind="stable")[:TOP_CLASSES]
    present = {int(number) for number in order if counts[number]}
    return {
        branch: [
            ("#{:02x}{:02x}{:02x}".format(*CLASS_COLOURS[number]), number in present) for number in classes
        ]
        for branch, classes in ALL.branches.items()
    }


def data_uri(image: Image, suffix: str) -> str:
    """An RGB or RGBA image as a data URI, JPEG or PNG."""
    code = cv2.COLOR_RGBA2BGRA if image.shape[-1] == 4 else cv2.COLOR_RGB2BGR
    options = [cv2.IMWRITE_JPEG_QUALITY, 88] if suffix == "jpeg" else [cv2.IMWRITE_PNG_COMPRESSION, 9]
    encoded = cv2.imencode(f".{suffix}", cv2.cvtColor(image, code), options)[1].tobytes()
    return f"data:image/{suffix};base64,{base64.b64encode(encoded).decode()}"


def main() -> None:
    """Write the figure beside its template."""
    folder = Path(__file__).parent
    identities = draw_identities(max(UNLABELLED, LABELLED) + 1, SEED)
    unlabelled, labelled = (paint_portrait(i, int(identities[i]), SEED) for i in (UNLABELLED, LABELLED))
    face, mask = square(unlabelled)
    template = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("method.svg.j2")
    figure = template.render(
        face=data_uri(face, "jpeg"),
        mask=data_uri(CLASS_COLOURS[mask], "png"),
        patch=data_uri(face[PATCH], "jpeg"),
        patch_mask=data_uri(CLASS_COLOURS[mask[PATCH]], "png"),
        patches=data_uri(rotated_patches(face), "png"),
        labelled=data_uri(square(labelled)[0], "jpeg"),
        targets=targets(mask[PATCH]),
        rotated=ROTATED,
        attributes=[(name.replace("_", " "), labelled.attributes[name]) for name in ATTRIBUTES],
    )
    write_text(folder / "method.svg", figure)


if __name__ == "__main__":
    main()
