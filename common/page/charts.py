"""Charts as inline SVG and pictures as data URIs, for one HTML file that loads nothing.

Lines, markers and text take their colours from CSS classes of the page, so that a
chart follows the reader's light or dark scheme.
"""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from common.mask_overlay import mask_overlay

HEAT: Final = (31, 122, 153)
"""RGB of a heat map's full cell; empty cells are transparent, so it works on light and dark."""

LABEL_GAP: Final = 34.0
"""Least distance between two tick labels of the x axis, in units of the view box."""


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        style: CSS class that gives the colour.
        points: (x, y) pairs in the order of x.
        marked: draw a marker at every point.
        valued: write the value beside every marker.
        errors: half the height of the error bar at every point, or empty.
    """

    style: str
    points: Sequence[tuple[float, float]]
    marked: bool = False
    valued: bool = True
    errors: Sequence[float] = ()


@dataclass(frozen=True)
class _Scale:
    """A linear or logarithmic map of data to the view box."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        share = 0.5 if high == low else (at - low) / (high - low)
        return round(self.start + share * (self.end - self.start), 1)


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers that enclose [low, high] in at most `count` + 1 steps of 1, 2, 2.5 or 5 times 10^k."""
    span = max(high - low, 0.04 * max(abs(low), abs(high))) or 1.0
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(power * nice for nice in (1, 2, 2.5, 5, 10) if power * nice * count >= span * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]


def line_chart(
    series: Sequence[Series],
    label: str,
    x_ticks: Sequence[tuple[float, str]],
    *,
    size: tuple[int, int] = (400, 230),
    log: bool = False,
    percent: bool = False,
    y_steps: int = 4,
    levels: Sequence[float] = (),
) -> str:
    """An SVG line chart.

    Args:
        series: the lines; later ones are drawn on top.
        label: what a screen reader says.
        x_ticks: values and texts on the x axis; a text that would touch its neighbour is left out.
        size: width and height of the view box.
        log: logarithmic x axis; all x are positive then.
        percent: y values are shares and shown in percent.
        y_steps: most steps between the ticks of the y axis.
        levels: heights of dashed reference lines.

    Raises:
        ValueError: there is no point to draw.
    """
    points = [point for line in series for point in line.points]
    if not points:
        raise ValueError("a chart needs a point")
    width, height = size
    marked = any(line.marked for line in series)
    heights = [*(y for _, y in points), *levels]
    for line in series:
        bars = list(zip(line.points, line.errors, strict=False))
        heights += [y + sign * error for (_, y), error in bars for sign in (-1, 1)]
    y_ticks = nice_ticks(min(heights), max(heights), y_steps)
    inset = 26 if marked else 4
    across = _Scale(min(x for x, _ in points), max(x for x, _ in points), 48 + inset, width - 8 - inset, log)
    up = _Scale(y_ticks[0], y_ticks[-1], height - 24 - inset / 4, 10 + inset / 4)
    parts = [f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">']
    for tick in y_ticks:
        text = f"{100 * tick:g}\u202f%" if percent else f"{tick:g}"
        parts.append(f'<line class="grid" x1="48" x2="{width - 8}" y1="{up(tick)}" y2="{up(tick)}"/>')
        parts.append(f'<text x="42" y="{up(tick) + 4}" text-anchor="end">{text}</text>')
    parts += _x_labels(x_ticks, across, height, marked)
    for level in levels:
        parts.append(f'<line class="level" x1="48" x2="{width - 8}" y1="{up(level)}" y2="{up(level)}"/>')
    for line in series:
        for (x, y), error in zip(line.points, line.errors, strict=False):
            ends = f'x1="{across(x)}" x2="{across(x)}" y1="{up(y - error)}" y2="{up(y + error)}"'
            parts.append(f'<line class="error {line.style}" {ends}/>')
        path = " ".join(f"{across(x)},{up(y)}" for x, y in line.points)
        parts.append(f'<polyline class="{line.style}" points="{path}"/>')
    for line in series:
        if line.marked:
            parts += _markers(line, series, across, up)
    return "".join([*parts, "</svg>"])


def _x_labels(ticks: Sequence[tuple[float, str]], across: _Scale, height: int, centred: bool) -> list[str]:
    parts: list[str] = []
    last = -math.inf
    for number, (value, text) in enumerate(ticks):
        if across(value) - last < LABEL_GAP:
            continue
        last = across(value)
        anchor = "middle" if centred else "start" if number == 0 else "end"
        parts.append(f'<text x="{last}" y="{height - 6}" text-anchor="{anchor}">{escape(text)}</text>')
    return parts


def _markers(line: Series, series: Sequence[Series], across: _Scale, up: _Scale) -> list[str]:
    """Markers with values; a value stands above its point if no other line is higher there."""
    parts = []
    for x, y in line.points:
        others = [(v, other.style) for other in series for u, v in other.points if u == x and other != line]
        above = all((y, line.style) > other for other in others)
        left, top = across(x), up(y)
        if line.style == "scratch":
            parts.append(f'<rect class="scratch" x="{left - 4:.1f}" y="{top - 4:.1f}" width="8" height="8"/>')
        else:
            parts.append(f'<circle class="{line.style}" cx="{left}" cy="{top}" r="4.5"/>')
        if line.valued:
            parts.append(
                f'<text class="value" x="{left}" y="{top + (-10 if above else 19):.1f}" '
                f'text-anchor="middle">{100 * y:.1f}</text>'
            )
    return parts


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """The centred running mean over `window` values; fewer at both ends."""
    kernel, data = np.ones(min(window, len(values))), np.asarray(values, np.float64)
    total = np.convolve(data, kernel, "same") / np.convolve(np.ones(len(data)), kernel, "same")
    return [float(value) for value in total]


def data_uri(data: bytes, kind: str) -> str:
    """A ``data:`` address of an image file of MIME type ``image/KIND``."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def face_picture(face: NDArray[np.uint8], side: int) -> str:
    """A face, uint8 RGB (S, S, 3), as a JPEG data URI of `side` pixels."""
    small = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
    return _encoded(cv2.cvtColor(small, cv2.COLOR_RGB2BGR), ".jpg", [cv2.IMWRITE_JPEG_QUALITY, 86])


def mask_picture(face: NDArray[np.uint8], mask: NDArray[np.uint8], side: int) -> str:
    """A face, uint8 RGB (S, S, 3), tinted by its mask, uint8 (S, S), beside itself: 2 `side` x `side`."""
    pair = (face, mask_overlay(face, mask))
    small = [cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA) for part in pair]
    return _encoded(cv2.cvtColor(np.hstack(small), cv2.COLOR_RGB2BGR), ".jpg", [cv2.IMWRITE_JPEG_QUALITY, 86])


def heat_map(shares: NDArray[np.float64]) -> str:
    """Shares 0..1, float64 (G, G), as a G x G pixel PNG data URI whose opacity is the share."""
    picture = np.empty((*shares.shape, 4), np.uint8)
    picture[..., :3] = HEAT[::-1]
    picture[..., 3] = np.rint(255 * shares)
    return _encoded(picture, ".png", [])


def _encoded(picture: NDArray[Any], suffix: str, options: list[int]) -> str:
    ok, data = cv2.imencode(suffix, picture, options)
    if not ok:
        raise ValueError(f"OpenCV could not encode a picture of shape {picture.shape}")
    return data_uri(data.tobytes(), "jpeg" if suffix == ".jpg" else "png")


def picture_uri(picture: NDArray[np.uint8]) -> str:
    """A picture, uint8 RGB (H, W, 3), as a PNG data URI."""
    return _encoded(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), ".png", [])


def histogram(values: Sequence[float], label: str, bins: int = 20) -> str:
    """An SVG histogram of shares, 0 to 1, from 0 to their greatest; heights are shares of the values.

    Args:
        values: at least one.
        label: what a screen reader says.
        bins: how many bars.
    """
    width, height, left = 400, 150, 40
    top = max(nice_ticks(0.0, max(values), 2))
    counts, _ = np.histogram(values, bins, (0.0, top))
    shares = counts / len(values)
    highest = max(nice_ticks(0.0, float(shares.max()), 2))
    step, room = (width - left) / bins, height - 34
    parts = [f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">']
    parts.append(f'<line class="grid" x1="{left}" x2="{width}" y1="{room + 10}" y2="{room + 10}"/>')
    for value in (0.0, highest):
        y = round(10 + room * (1 - value / highest), 1)
        parts.append(f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{100 * value:g}\u202f%</text>')
    for number, share in enumerate(shares.tolist()):
        tall = round(room * share / highest, 1)
        if tall:
            parts.append(
                f'<rect class="area" x="{left + number * step + 1:.1f}" y="{10 + room - tall:.1f}" '
                f'width="{step - 2:.1f}" height="{tall}"/>'
            )
    parts.append(f'<text x="{left}" y="{height - 4}">0</text>')
    parts.append(f'<text x="{width}" y="{height - 4}" text-anchor="end">{100 * top:g}\u202f%</text>')
    return "".join([*parts, "</svg>"])


def matrix(values: NDArray[np.float64], names: Sequence[str]) -> str:
    """An SVG of a symmetric matrix of -1 to 1, float64 (N, N): its lower triangle, colour by sign.

    A name stands on the diagonal: its cells lie at the left of it and below it.
    """
    cell, right = 16, 150
    width, height = cell * len(names) + right, cell * len(names)
    parts = [
        f'<svg class="chart matrix" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'role="img" aria-label="Correlations of attributes">'
    ]
    for row, name in enumerate(names):
        y = cell * row
        for column in range(row):
            value = float(values[row, column])
            if not math.isnan(value) and abs(value) >= 0.01:
                style = "more" if value > 0 else "less"
                title = f"{escape(name)}, {escape(names[column])}: {value:+.2f}"
                parts.append(
                    f'<rect class="{style}" x="{cell * column}" y="{y}" width="{cell - 1}" '
                    f'height="{cell - 1}" fill-opacity="{min(1.0, abs(value)):.2f}">'
                    f"<title>{title}</title></rect>"
                )
        parts.append(f'<text x="{cell * row + 3}" y="{y + 12}">{escape(name)}</text>')
    return "".join([*parts, "</svg>"])
