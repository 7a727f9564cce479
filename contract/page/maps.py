"""Maps as inline SVG: where a part lies, and which attributes go together."""

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from contract.page.charts import heat_map

LEAST_SHOWN = 0.02
"""Coefficients nearer to zero leave their cell empty."""


def patch_map(cells: NDArray[np.float64], patches: NDArray[np.float64] | None, label: str) -> str:
    """A heat map of a fine grid below the borders and percentages of coarser patches.

    Args:
        cells: shares 0..1, float64 (G, G).
        patches: shares 0..1, float64 (P, P); None shows the cells alone.
        label: what a screen reader says.
    """
    picture = (
        f'<svg class="patches" viewBox="0 0 96 96" role="img" aria-label="{escape(label)}">'
        f'<image href="{heat_map(cells)}" width="96" height="96" preserveAspectRatio="none"/>'
    )
    if patches is None:
        return picture + "</svg>"
    count = len(patches)
    step = 96 / count
    for edge in range(1, count):
        at = f"{edge * step:g}"
        picture += f'<path d="M{at} 0V96M0 {at}H96"/>'
    for (row, column), share in np.ndenumerate(patches):
        picture += f'<text x="{(column + 0.5) * step:g}" y="{(row + 0.5) * step + 4:g}">{100 * share:.0f}</text>'
    return picture + "</svg>"


def triangle(names: Sequence[str], values: NDArray[np.float64], label: str) -> str:
    """The lower half of a symmetric matrix of coefficients -1..1, as cells of two colours.

    The strongest cell has its full colour. A name stands on the diagonal: its cells lie at the
    left of it and below it.

    Args:
        names: of the N rows and columns.
        values: float64 (N, N), NaN where a coefficient is not defined.
        label: what a screen reader says.
    """
    count, cell = len(names), 16
    lower = np.tril(np.nan_to_num(values), -1)
    strongest = max(float(np.abs(lower).max(initial=0.0)), LEAST_SHOWN)
    width, height = cell * count + 140, cell * count
    parts = [
        f'<svg class="triangle" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}" '
        f'style="max-width:{1.3 * width:.0f}px;min-width:{0.8 * width:.0f}px">'
    ]
    for row, column in zip(*np.nonzero(np.abs(lower) >= LEAST_SHOWN), strict=True):
        value = float(lower[row, column])
        parts.append(
            f'<rect class="{"more" if value > 0 else "less"}" x="{cell * column}" y="{cell * row}" '
            f'width="{cell - 1}" height="{cell - 1}" fill-opacity="{abs(value) / strongest:.2f}">'
            f"<title>{escape(names[row])} and {escape(names[column])}: {coefficient(value)}</title></rect>"
        )
    for number, name in enumerate(names):
        parts.append(f'<text x="{cell * number + 2}" y="{cell * number + 12}">{escape(name)}</text>')
    return "".join([*parts, "</svg>"])


def coefficient(value: float) -> str:
    """A coefficient -1..1 with its sign and two decimals."""
    return f"{value:+.2f}".replace("-", "\u2212")
