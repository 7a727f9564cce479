"""Faces with masks, and where parts lie: what the data card and the result page both show."""

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from common.classes import CLASS_COLOURS, CLASS_TITLES, CLASSES
from common.page.charts import heat_map, mask_picture
from common.page.elements import NARROW, count

SIDE = 128
"""Of a shown face, in pixels."""


def faces_with_masks(faces: Sequence[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]]) -> str:
    """Each face, uint8 RGB (S, S, 3), beside itself tinted by its mask, uint8 (S, S), under its caption."""
    figures = "".join(
        f'<figure><img src="{mask_picture(face, mask, SIDE)}" width="{2 * SIDE}" height="{SIDE}" '
        f'alt="Face and mask"><figcaption class="soft">{escape(caption)}</figcaption></figure>'
        for caption, face, mask in faces
    )
    return f'<div class="faces">{figures}</div>'


def class_legend() -> str:
    """The colours of the classes."""
    swatches = "".join(
        f'<li><i style="background:rgb({r},{g},{b})"></i>{escape(CLASS_TITLES[name])}</li>'
        for name, (r, g, b) in zip(CLASSES, CLASS_COLOURS.tolist(), strict=True)
    )
    return f'<ul class="legend classes">{swatches}</ul>'


def presence_maps(cells: NDArray[np.float64], faces: NDArray[np.float64], samples: int) -> str:
    """One heat map per class over the cells of the stored grid.

    Args:
        cells: (G, G, 19), share of the samples that have a class in a cell.
        faces: (19,), share that have it at all.
        samples: how many there are.
    """
    maps, absent = [], []
    for number, name in enumerate(CLASSES):
        title = escape(CLASS_TITLES[name])
        if faces[number] == 0:
            absent.append(title)
            continue
        maps.append(
            f'<figure><img class="heat" src="{heat_map(cells[..., number])}" width="96" height="96" '
            f'alt="Where {title} lies"><figcaption>{title}<span class="soft"> '
            f"{100 * faces[number]:.0f}{NARROW}%</span></figcaption></figure>"
        )
    missing = f" In none of them: {', '.join(absent)}." if absent else ""
    return (
        '<h3>Where the parts are</h3><p class="note">The stronger the colour of a cell of the '
        f"{cells.shape[0]} \u00d7 {cells.shape[0]} grid, the more of {count(samples, 'sample')} have the "
        "part there; beside the name, the share that have it at all."
        f'{missing}</p><div class="heats">{"".join(maps)}</div>'
    )
