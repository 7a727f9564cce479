"""Figures by matplotlib as inline SVG that follows the reader's light or dark scheme.

Figures are drawn in the colours of `THEME`, and each of these becomes a variable of the style sheet.
"""

import io
import re
from collections.abc import Callable
from typing import Any, Final

from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK: Final = "#000000"
SOFT: Final = "#676c75"
GRID: Final = "#e3e0d8"
# The palette of Okabe and Ito, which colour-blind readers can tell apart.
SERIES: Final = ("#d55e00", "#0072b2", "#cc79a7", "#009e73", "#e69f00", "#56b4e9", "#555555")
MARKERS: Final = "soD^vP*"  # Shapes of the points, so that colour is not all that tells lines apart

THEME: Final = {
    INK: "currentColor",
    "#ffffff": "none",
    SOFT: "var(--soft)",
    GRID: "var(--line)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(SERIES)},
}

SMALL: Final = (2.4, 1.45)
# Width and height of figures, in inches: for a column of curves, and for half of the page.
WIDE: Final = (3.8, 2.2)

STYLE: Final[Any] = {
    "svg.hashsalt": "page",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 7,
    "text.color": SOFT,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.3,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.major.size": 2,
    "ytick.major.size": 0,
    **{f"boxplot.{part}props.color": SERIES[1] for part in ("box", "whisker", "cap", "median")},
}

# Names of groups, clip paths, and a style rule for all elements: none is of use inside a page.
REDUNDANT: Final = re.compile(
    r'\s(?:id="\w+_\d+"|clip-path="[^"]*")|<metadata>.*?</metadata>'
    r"|<defs>\s*(?:<style.*?</style>|<clipPath.*?</clipPath>\s*)+\s*</defs>|<!--.*?-->",
    re.DOTALL,
)


def colour(number: int) -> str:
    """The colour of the series with this number, from 0."""
    return SERIES[number % len(SERIES)]


def figure(draw: Callable[[Axes], None], label: str, size: tuple[float, float] = WIDE) -> Markup:
    """What `draw` puts on a pair of axes in colours of `THEME`, as SVG without a background, for a page.

    `label` is what a screen reader says. `size` is width and height in inches; a page scales figures.
    """
    with rc_context(STYLE):
        canvas = Figure(figsize=size, layout="constrained")
        draw(canvas.subplots())
        stream = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        canvas.savefig(stream, format="svg", transparent=True, metadata=nothing)
    svg = stream.getvalue()
    view, start = re.search(r'viewBox="[\d. -]+"', svg), re.search(r"<svg[^>]*>", svg)
    assert view and start
    body = REDUNDANT.sub("", svg[start.end() :])
    for drawn, themed in THEME.items():
        body = body.replace(drawn, themed)
    return Markup(f'<svg class="chart" {view[0]} role="img" aria-label="{escape(label)}">{body}')
