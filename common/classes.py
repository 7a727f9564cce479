"""The 19 face-parsing classes, in the one order that shards use: the one that facexlib's BiSeNet emits.

CelebAMask-HQ label maps are usually distributed in another order, which `FROM_CELEBAMASK_HQ` translates. Left
and right are the subject's, so a horizontal flip swaps the pairs.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

# fmt: off
_TABLE: Final = (
    # name, title on pages, RGB colour: left and right are a dark and a light tone of one hue
    ("background", "background", (24, 26, 30)),
    ("skin", "skin", (235, 180, 140)),
    ("l_brow", "left brow", (118, 72, 190)),
    ("r_brow", "right brow", (184, 148, 232)),
    ("l_eye", "left eye", (22, 108, 214)),
    ("r_eye", "right eye", (120, 190, 250)),
    ("eye_g", "glasses", (0, 168, 168)),
    ("l_ear", "left ear", (206, 92, 20)),
    ("r_ear", "right ear", (246, 164, 96)),
    ("ear_r", "earring", (255, 214, 10)),
    ("nose", "nose", (62, 176, 74)),
    ("mouth", "mouth", (132, 8, 44)),
    ("u_lip", "upper lip", (222, 44, 84)),
    ("l_lip", "lower lip", (250, 140, 166)),
    ("neck", "neck", (164, 190, 110)),
    ("neck_l", "necklace", (255, 240, 150)),
    ("cloth", "cloth", (72, 108, 150)),
    ("hair", "hair", (146, 84, 44)),
    ("hat", "hat", (216, 78, 208)),
)
CELEBAMASK_HQ_CLASSES: Final = (
    "background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear",
    "mouth", "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth",
)
# fmt: on

CLASSES: Final = tuple(name for name, _, _ in _TABLE)
NUM_CLASSES: Final = len(CLASSES)

CLASS_TITLES: Final = {name: title for name, title, _ in _TABLE}  # What pages call the classes
CLASS_COLOURS: Final = np.array([colour for _, _, colour in _TABLE], np.uint8)  # RGB per class, uint8 (19, 3)
# uint8 (256,) look-up table: ``FROM_CELEBAMASK_HQ[mask]`` is in shard order.
FROM_CELEBAMASK_HQ: Final = np.arange(256, dtype=np.uint8)
FROM_CELEBAMASK_HQ[:NUM_CLASSES] = [CLASSES.index(name) for name in CELEBAMASK_HQ_CLASSES]
FROM_CELEBAMASK_HQ.setflags(write=False)

FLIP_PAIRS: Final = (("l_brow", "r_brow"), ("l_eye", "r_eye"), ("l_ear", "r_ear"))
# uint8 (256,) look-up table to apply to a mask after mirroring it left to right.
FLIP_CLASSES: Final = np.arange(256, dtype=np.uint8)
for _pair in FLIP_PAIRS:
    _numbers = [CLASSES.index(name) for name in _pair]
    FLIP_CLASSES[_numbers] = _numbers[::-1]
FLIP_CLASSES.setflags(write=False)


def mask_overlay(image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two parts of an image, uint8 RGB (H, W, 3), to three of the colours of its classes; of the same shape.

    `mask` is uint8 (H, W), numbers of classes.
    """
    tint = CLASS_COLOURS[mask].astype(np.uint16)
    return ((image.astype(np.uint16) * 2 + tint * 3) // 5).astype(np.uint8)
