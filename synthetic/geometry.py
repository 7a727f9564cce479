"""Where things lie: the drawing canvas, smooth curves, the head's pose and the final camera.

Everything is drawn in *head coordinates*: the origin is midway between the pupils, x grows to the image's
right, y grows downwards, and the unit is the distance between the pupils. A frontal head therefore spans
about x in [-1.2, 1.2] and y in [-1.8, 1.8]. The pose is applied once, to the finished drawing.

OpenCV is only given 8-bit images and fixed-point coordinates, where its filters are bit-exact, so that a
seed gives the same bytes on every machine.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.floating[Any]]
Bytes = NDArray[np.uint8]
Points = NDArray[np.floating[Any]]

ALIGNED_WIDTH: Final = 178
ALIGNED_HEIGHT: Final = 218
CELEBA_EYES: Final = ((69.5, 111.3), (107.5, 111.3))
"""Pixel positions (x, y) to which CelebA's alignment brings the eyes, the image's left one first."""

PIXELS_PER_UNIT: Final = 64.0
"""Resolution of the drawing, 1.7 times the 38 pixels between the eyes of an aligned CelebA image."""

FRACTION_BITS: Final = 4
"""Sub-pixel bits of the coordinates handed to OpenCV's drawing functions."""


@dataclass(frozen=True)
class Canvas:
    """A rectangle of the drawing, `height` x `width` pixels whose top left pixel is (`row`, `column`).

    `origin_x` and `origin_y` are the head coordinates of the corner of pixel (0, 0) of the whole drawing,
    which is shared by all the windows of one drawing.
    """

    origin_x: float
    origin_y: float
    row: int
    column: int
    height: int
    width: int

    @classmethod
    def spanning(cls, left: float, top: float, right: float, bottom: float) -> "Canvas":
        """Return the canvas of a whole drawing, given its borders in head coordinates."""
        width, height = round((right - left) * PIXELS_PER_UNIT), round((bottom - top) * PIXELS_PER_UNIT)
        return cls(left, top, 0, 0, height, width)

    def window(self, left: float, top: float, right: float, bottom: float) -> "Canvas":
        """Return the part of this canvas inside the given borders (head coordinates), at least one pixel."""

        def clip(value: float, low: int, high: int) -> int:
            return min(max(round(value * PIXELS_PER_UNIT), low), high)

        column = clip(left - self.origin_x, self.column, self.column + self.width - 1)
        row = clip(top - self.origin_y, self.row, self.row + self.height - 1)
        width = clip(right - self.origin_x, column + 1, self.column + self.width) - column
        height = clip(bottom - self.origin_y, row + 1, self.row + self.height) - row
        return Canvas(self.origin_x, self.origin_y, row, column, height, width)

    def around(self, points: Points, margin: float = 0.1) -> "Canvas":
        """Return the window that holds float64 points (..., 2) with a margin (head units)."""
        flat = points.reshape(-1, 2)
        left, top = flat.min(axis=0) - margin
        right, bottom = flat.max(axis=0) + margin
        return self.window(float(left), float(top), float(right), float(bottom))

    @cached_property
    def x(self) -> Points:
        """Head x coordinate of the pixel centres, float64 (width,)."""
        return (np.arange(self.width) + self.column + 0.5) / PIXELS_PER_UNIT + self.origin_x

    @cached_property
    def y(self) -> Points:
        """Head y coordinate of the pixel centres, float64 (height,)."""
        return (np.arange(self.height) + self.row + 0.5) / PIXELS_PER_UNIT + self.origin_y

    def to_fixed(self, points: Points) -> NDArray[np.int32]:
        """Return float64 head coordinates (..., 2) as int32 fixed-point pixels of this window."""
        corner = np.array([self.origin_x, self.origin_y])
        pixels = (points - corner) * PIXELS_PER_UNIT - 0.5 - np.array([self.column, self.row])
        return np.rint(pixels * (1 << FRACTION_BITS)).astype(np.int32)

    def fill(self, *polygons: Points, softness: float = 0.012) -> Bytes:
        """Return the coverage, uint8 (height, width), of closed polygons, blurred by `softness` units."""
        coverage = np.zeros((self.height, self.width), np.uint8)
        for polygon in polygons:
            cv2.fillPoly(coverage, [self.to_fixed(polygon)], 255, cv2.LINE_8, FRACTION_BITS)
        return blurred(coverage, softness)

    def strokes(
        self, groups: list[tuple[int, int, Points]], background: int = 0, softness: float = 0.0
    ) -> Bytes:
        """Draw groups of equally long polylines and return uint8 (height, width).

        Each group is (value 0..255, thickness in pixels, float64 points (lines, points, 2)); later groups are
        drawn over earlier ones.
        """
        drawing = np.full((self.height, self.width), background, np.uint8)
        for value, thickness, lines in groups:
            cv2.polylines(
                drawing, list(self.to_fixed(lines)), False, value, thickness, cv2.LINE_AA, FRACTION_BITS
            )
        return blurred(drawing, softness)

    def bump(self, x: float, y: float, width: float, height: float) -> Floats:
        """Return a Gaussian hill, float32 (height, width), of peak 1 and the given standard deviations."""
        across = np.exp(-0.5 * ((self.x - x) / width) ** 2)
        down = np.exp(-0.5 * ((self.y - y) / height) ** 2)
        return np.multiply.outer(down.astype(np.float32), across.astype(np.float32))

    def pair(self, x: float, y: float, width: float, height: float) -> Floats:
        """Return two Gaussian hills, mirrored at the face's midline; see `bump`."""
        across = np.exp(-0.5 * ((self.x - x) / width) ** 2) + np.exp(-0.5 * ((self.x + x) / width) ** 2)
        down = np.exp(-0.5 * ((self.y - y) / height) ** 2)
        return np.multiply.outer(down.astype(np.float32), across.astype(np.float32))


def blurred(image: Bytes, sigma: float) -> Bytes:
    """Return a uint8 image smoothed by a Gaussian of `sigma` head units; 0 returns it unchanged."""
    pixels = sigma * PIXELS_PER_UNIT
    if pixels < 0.2:
        return image
    if pixels > 2.0:
        return _boxed(image, pixels).astype(np.uint8, copy=False)
    size = 2 * max(1, round(2.5 * pixels)) + 1
    return cv2.GaussianBlur(image, (size, size), pixels).astype(np.uint8, copy=False)


def finely_blurred(image: Bytes, sigma: float) -> NDArray[np.uint16]:
    """Return a uint8 image smoothed by `sigma` head units as uint16 in 0..65535, without 8-bit steps."""
    return _boxed(image.astype(np.uint16) * np.uint16(257), sigma * PIXELS_PER_UNIT).astype(
        np.uint16, copy=False
    )


def _boxed(image: NDArray[Any], pixels: float) -> NDArray[Any]:
    """Smooth by three box filters, whose cost does not grow with `pixels`, the standard deviation.

    Three boxes of width n have the variance 3 (n^2 - 1) / 12.
    """
    size = 2 * round((np.sqrt(4 * pixels * pixels + 1) - 1) / 2) + 1
    for _ in range(3):
        image = cv2.blur(image, (size, size))
    return image


def unit(image: Bytes) -> Floats:
    """Return a uint8 image as float32 in 0..1."""
    return image * np.float32(1 / 255)


def curve(x: ArrayLike, y: ArrayLike, count: int = 24) -> Points:
    """Return `count` points on the Catmull-Rom spline through (x, y), both (n,), float64 (count, 2)."""
    knots = np.stack([x, y], axis=-1).astype(np.float64)
    padded = np.concatenate([2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]])
    position = np.linspace(0, len(knots) - 1, count)
    first = np.minimum(position.astype(np.int64), len(knots) - 2)
    t = (position - first)[:, None]
    a, b, c, d = (padded[first + i] for i in range(4))
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)


def mirrored(points: Points) -> Points:
    """Return float64 points (..., 2) reflected at the face's midline."""
    return points * np.array([-1.0, 1.0])


def symmetric(right_half: Points) -> Points:
    """Return the closed outline whose right half runs from the top to the bottom of the midline."""
    return np.concatenate([right_half, mirrored(right_half)[::-1]])


def ellipse(x: float, y: float, width: float, height: float, turn: float = 0.0, count: int = 40) -> Points:
    """Return an ellipse's outline, float64 (count, 2); `width`, `height` are radii, `turn` is in radians."""
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    across, down = width * np.cos(angle), height * np.sin(angle)
    cos, sin = np.cos(turn), np.sin(turn)
    return np.stack([x + across * cos - down * sin, y + across * sin + down * cos], axis=-1)


@dataclass(frozen=True)
class Pose:
    """How far the head is turned: `yaw` and `pitch` in radians, positive to the image's right and downwards.

    The turn is that of a relief: a point of depth z moves by z * sin(angle). That is the parallax of a true
    rotation to first order and keeps the drawing free of holes up to about 25 degrees.
    """

    yaw: float
    pitch: float

    def displacement(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Return how far head points move, float32 of the same shape as `x` and `y`, in head units."""
        skull = np.maximum(0, 1 - (x * x * (1 / 2.1) + (y - 0.1) ** 2 * (1 / 4.4)))
        nose_x, nose_y = x * (1 / 0.42), (y - 0.52) * (1 / 0.55)
        nose = np.maximum(0, 1 - nose_x * nose_x - nose_y * nose_y)
        depth = 0.95 * skull * (2 - skull) + 0.3 * nose * nose
        return depth * np.float32(np.sin(self.yaw)), depth * np.float32(np.sin(self.pitch))

    def apply(self, points: Points) -> Points:
        """Return where head points (n, 2), float64, appear after the turn."""
        across, down = self.displacement(points[:, 0].astype(np.float32), points[:, 1].astype(np.float32))
        return points + np.stack([across, down], axis=-1)

    def undo(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Return the head points that appear at (x, y), float32, by fixed-point iteration."""
        source_x, source_y = x, y
        for _ in range(4):
            across, down = self.displacement(source_x, source_y)
            source_x, source_y = x - across, y - down
        return source_x, source_y


@dataclass(frozen=True)
class Camera:
    """The similarity from posed head coordinates to the image's pixels: scale * R(roll) * p + shift.

    `width` and `height` are the image's size; `roll` is in radians, positive clockwise on the screen.
    """

    width: int
    height: int
    scale: float
    roll: float
    shift_x: float
    shift_y: float

    @classmethod
    def bringing(
        cls, eyes: Points, to: ArrayLike, width: int = ALIGNED_WIDTH, height: int = ALIGNED_HEIGHT
    ) -> "Camera":
        """Return the camera that brings the two posed eye points (2, 2) to two pixels (2, 2), both (x, y)."""
        target = np.asarray(to, np.float64)
        before, after = eyes[1] - eyes[0], target[1] - target[0]
        scale = float(np.hypot(*after) / np.hypot(*before))
        roll = float(np.arctan2(after[1], after[0]) - np.arctan2(before[1], before[0]))
        middle = eyes.mean(axis=0)
        turned = cls(width, height, scale, roll, 0.0, 0.0).apply(middle[None])[0]
        shift = target.mean(axis=0) - turned
        return cls(width, height, scale, roll, float(shift[0]), float(shift[1]))

    def apply(self, points: Points) -> Points:
        """Return the pixel positions (n, 2), float64, of posed head points (n, 2)."""
        cos, sin = self.scale * np.cos(self.roll), self.scale * np.sin(self.roll)
        x, y = points[:, 0], points[:, 1]
        return np.stack([cos * x - sin * y + self.shift_x, sin * x + cos * y + self.shift_y], axis=-1)

    def rays(self) -> tuple[Floats, Floats]:
        """Return the posed head coordinates of every pixel, two float32 arrays (height, width)."""
        cos, sin = np.cos(self.roll) / self.scale, np.sin(self.roll) / self.scale
        column = (np.arange(self.width) - self.shift_x).astype(np.float64)
        row = (np.arange(self.height) - self.shift_y).astype(np.float64)
        x = (cos * column)[None, :] + (sin * row)[:, None]
        y = (-sin * column)[None, :] + (cos * row)[:, None]
        return x.astype(np.float32), y.astype(np.float32)
