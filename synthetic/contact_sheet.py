"""The contact sheet: portraits of a set beside their masks in one image."""

from pathlib import Path
from typing import Final

import cv2
import numpy as np

from common.classes import mask_overlay
from common.errors import UserError
from synthetic.dataset import draw_identities, paint_portrait
from synthetic.geometry import ALIGNED_HEIGHT, ALIGNED_WIDTH, Bytes

ROWS: Final = 8
COLUMNS: Final = 6
LARGEST_FILE: Final = 300_000
"""Bytes; the sheet is committed with the documentation."""


def contact_sheet(seed: int) -> Bytes:
    """Return portraits of the first `ROWS` x `COLUMNS` people of a set, each beside its mask, uint8 RGB."""
    cell_width, cell_height = round(ALIGNED_WIDTH * 0.62), round(ALIGNED_HEIGHT * 0.62)
    gap = 4
    width, height = COLUMNS * (2 * cell_width + 2 * gap) + gap, ROWS * (cell_height + gap) + gap
    sheet = np.full((height, width, 3), 255, np.uint8)
    # A person has 9 images at most, so this many images show enough people.
    people, first_images = np.unique(draw_identities(9 * ROWS * COLUMNS, seed), return_index=True)
    for cell in range(ROWS * COLUMNS):
        portrait = paint_portrait(int(first_images[cell]), int(people[cell]), seed)
        row, column = divmod(cell, COLUMNS)
        top, left = gap + row * (cell_height + gap), gap + column * (2 * cell_width + 2 * gap)
        pair = np.hstack([portrait.image, mask_overlay(portrait.image, portrait.mask)])
        small = cv2.resize(pair, (2 * cell_width, cell_height), interpolation=cv2.INTER_AREA)
        sheet[top : top + cell_height, left : left + 2 * cell_width] = small
    return sheet


def write_contact_sheet(path: Path | str, seed: int) -> None:
    """Write the contact sheet of a seed as PNG or JPEG, by the file's extension, in less than 300 KB.

    Raises:
        UserError: the extension is another one, or the file cannot be written.
    """
    target = Path(path)
    if target.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UserError(f"--contact-sheet must end in .png, .jpg or .jpeg, not {target.name!r}")
    sheet = contact_sheet(seed)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(_encoded(sheet, target.suffix.lower()))
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error


def _encoded(sheet: Bytes, suffix: str) -> bytes:
    """Return the file's bytes, at the best quality (JPEG) or the largest size (PNG) that fits."""
    smaller, quality = sheet, 92
    while True:
        options = [] if suffix == ".png" else [cv2.IMWRITE_JPEG_QUALITY, quality]
        data = cv2.imencode(suffix, np.ascontiguousarray(smaller[:, :, ::-1]), options)[1].tobytes()
        if len(data) < LARGEST_FILE:
            return data
        if suffix != ".png" and quality > 60:
            quality -= 4
            continue
        height, width = smaller.shape[0] * 9 // 10, smaller.shape[1] * 9 // 10
        smaller = cv2.resize(smaller, (width, height), interpolation=cv2.INTER_AREA).astype(
            np.uint8, copy=False
        )
