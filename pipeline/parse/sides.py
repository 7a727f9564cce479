"""Left and right by position, because the parser's weights do not tell them apart.

facexlib's BiSeNet was trained on mirrored faces whose left and right labels were not
swapped: of CelebAMask-HQ faces it assigns 3 % of the brow and eye pixels to the other
side as they are and 89 % when they are mirrored, of CelebA faces 32 %. Faces are upright
once aligned, so what lies on the image's right of the nose is the subject's left.
"""

import numpy as np
from numpy.typing import NDArray

from common.classes import CLASSES, FLIP_PAIRS

PAIRS = tuple((CLASSES.index(left), CLASSES.index(right)) for left, right in FLIP_PAIRS)
NOSE = CLASSES.index("nose")


def assign_sides(masks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Assign brows, eyes and ears of upright faces to the side on which they lie.

    The midline is the bridge of the nose (its upper quarter), or, where no nose is visible,
    the middle of both brows and eyes.

    Args:
        masks: uint8 (B, S, S), classes 0..18.

    Returns:
        uint8 (B, S, S); all other classes are untouched.
    """
    assigned = masks.copy()
    columns = np.arange(masks.shape[2])
    for mask in assigned:
        middle = _midline(mask)
        for left, right in PAIRS:
            either = (mask == left) | (mask == right)
            mask[either & (columns > middle)] = left
            mask[either & (columns <= middle)] = right
    return assigned


def _midline(mask: NDArray[np.uint8]) -> float:
    rows, columns = np.nonzero(mask == NOSE)
    if len(rows):
        bridge = rows <= rows.min() + (rows.max() - rows.min()) / 4
        return float(columns[bridge].mean())
    _, columns = np.nonzero(np.isin(mask, PAIRS[0] + PAIRS[1]))
    return float(columns.min() + columns.max()) / 2 if len(columns) else mask.shape[1] / 2
