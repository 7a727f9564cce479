"""The 19 face-parsing classes, in the one order that shards use.

The order is the one that facexlib's BiSeNet emits. CelebAMask-HQ label maps
are usually distributed in another order; `FROM_CELEBAMASK_HQ` translates them.
Left and right are the subject's, so a horizontal flip swaps the pairs.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

CLASSES: Final = (
    "background",
    "skin",
    "l_brow",
    "r_brow",
    "l_eye",
    "r_eye",
    "eye_g",
    "l_ear",
    "r_ear",
    "ear_r",
    "nose",
    "mouth",
    "u_lip",
    "l_lip",
    "neck",
    "neck_l",
    "cloth",
    "hair",
    "hat",
)
NUM_CLASSES: Final = len(CLASSES)

CLASS_TITLES: Final = dict(
    zip(
        CLASSES,
        (
            *("background", "skin", "left brow", "right brow", "left eye", "right eye", "glasses"),
            *("left ear", "right ear", "earring", "nose", "mouth", "upper lip", "lower lip", "neck"),
            *("necklace", "cloth", "hair", "hat"),
        ),
        strict=True,
    )
)
"""What pages call the classes."""

CELEBAMASK_HQ_CLASSES: Final = (
    "background",
    "skin",
    "nose",
    "eye_g",
    "l_eye",
    "r_eye",
    "l_brow",
    "r_brow",
    "l_ear",
    "r_ear",
    "mouth",
    "u_lip",
    "l_lip",
    "hair",
    "hat",
    "ear_r",
    "neck_l",
    "neck",
    "cloth",
)


def _lookup(mapping: dict[int, int], size: int = 256) -> NDArray[np.uint8]:
    table = np.arange(size, dtype=np.uint8)
    for source, target in mapping.items():
        table[source] = target
    table.setflags(write=False)
    return table


FROM_CELEBAMASK_HQ: Final = _lookup({i: CLASSES.index(name) for i, name in enumerate(CELEBAMASK_HQ_CLASSES)})
"""uint8 (256,) look-up table: ``FROM_CELEBAMASK_HQ[mask]`` is in shard order."""

FLIP_PAIRS: Final = (("l_brow", "r_brow"), ("l_eye", "r_eye"), ("l_ear", "r_ear"))

FLIP_CLASSES: Final = _lookup(
    {
        CLASSES.index(a): CLASSES.index(b)
        for left, right in FLIP_PAIRS
        for a, b in ((left, right), (right, left))
    }
)
"""uint8 (256,) look-up table to apply to a mask after mirroring it left to right."""

# fmt: off
CLASS_COLOURS: Final = np.array(
    [
        (24, 26, 30), (235, 180, 140), (118, 72, 190), (184, 148, 232), (22, 108, 214), (120, 190, 250),
        (0, 168, 168), (206, 92, 20), (246, 164, 96), (255, 214, 10), (62, 176, 74), (132, 8, 44),
        (222, 44, 84), (250, 140, 166), (164, 190, 110), (255, 240, 150), (72, 108, 150), (146, 84, 44),
        (216, 78, 208),
    ],
    np.uint8,
)
# fmt: on
"""RGB per class, uint8 (19, 3); left and right are a dark and a light tone of one hue."""
