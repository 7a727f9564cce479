"""Light and surfaces: one lamp, a sky and a ground, falling on normals.

Colours are kept as sRGB in 0..1 and squared before they meet the light: a gamma of 2 is close to sRGB's curve
and, unlike a power function, gives the same bits on every processor.
"""

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from synthetic.geometry import PIXELS_PER_UNIT, Bytes, Floats, finely_blurred

NOISE_SIZE = 640


@dataclass(frozen=True)
class Surface:
    """Unit normals of a window, three float32 (height, width) arrays: x right, y down, z to the viewer."""

    x: Floats
    y: Floats
    z: Floats


@dataclass(frozen=True)
class Light:
    """A lamp and what comes from all around.

    Attributes:
        direction: unit vector towards the lamp, (x right, y down, z to the viewer).
        lamp: linear RGB strength of the lamp.
        sky: linear RGB strength of the light from above.
        ground: linear RGB strength of the light from below.
    """

    direction: tuple[float, float, float]
    lamp: tuple[float, float, float]
    sky: tuple[float, float, float]
    ground: tuple[float, float, float]

    def on(
        self, surface: Surface, colour: Floats, occlusion: Floats | float = 1.0, wrap: float = 0.25
    ) -> Floats:
        """Return `colour`, float32 sRGB (height, width, 3) or (3,), as it looks on a surface.

        The result is float32 (height, width, 3) and holds diffuse light only. `occlusion` in 0..1 scales all
        light; `wrap` lets the lamp reach past the terminator, as light that travels under the skin does.
        """
        to_lamp = np.array(self.direction, np.float32)
        facing = surface.x * to_lamp[0] + surface.y * to_lamp[1] + surface.z * to_lamp[2]
        lamp = np.maximum(0, (facing + wrap) * (1 / (1 + wrap))) * occlusion
        upwards = (0.5 - 0.5 * surface.y) * occlusion
        downwards = np.asarray(occlusion, np.float32) - upwards
        lights = zip(self.lamp, self.sky, self.ground, strict=True)
        shades = (np.sqrt(lamp * a + upwards * b + downwards * c) for a, b, c in lights)
        return np.stack([colour[..., channel] * shade for channel, shade in enumerate(shades)], axis=-1)

    def gloss(self, surface: Surface, sharpness: int) -> Floats:
        """Return the Blinn-Phong highlight, float32 (height, width) in 0..1; exponent 2**sharpness."""
        half = np.array(self.direction) + np.array([0.0, 0.0, 1.0])
        half = (half / np.sqrt((half**2).sum())).astype(np.float32)
        shine = np.maximum(0, surface.x * half[0] + surface.y * half[1] + surface.z * half[2])
        for _ in range(sharpness):
            shine = shine * shine
        return shine


def draw_light(rng: np.random.Generator) -> Light:
    """Draw a lamp: mostly frontal and from above, as in press photographs, sometimes from the side."""
    side = float(np.clip(rng.normal(0.0, 0.42), -0.95, 0.95))
    height = float(rng.uniform(-0.75, -0.05))
    vector = np.array([side, height, 1.0])
    vector /= np.sqrt((vector**2).sum())
    warmth = float(rng.normal(0.0, 0.06))
    strength = float(rng.uniform(0.78, 1.08))
    ambient = float(rng.uniform(0.26, 0.48))
    lamp = (strength * (1 + warmth), strength, strength * (1 - warmth))
    tint = float(rng.normal(0.0, 0.05))
    sky = (ambient * (1 - tint), ambient, ambient * (1 + tint))
    bounce = float(rng.uniform(0.2, 0.45))
    red, green, blue = (0.55 * value * bounce for value in lamp)
    x, y, z = vector.tolist()
    return Light((x, y, z), lamp, sky, (red, green * 0.92, blue * 0.85))


def surface_of(height: Floats) -> Surface:
    """Return the normals of a relief, float32 (height, width), given in head units."""
    slope_x, slope_y = np.zeros_like(height), np.zeros_like(height)
    half = PIXELS_PER_UNIT / 2
    if height.shape[1] > 2:
        slope_x[:, 1:-1] = (height[:, :-2] - height[:, 2:]) * half
        slope_x[:, 0], slope_x[:, -1] = slope_x[:, 1], slope_x[:, -2]
    if height.shape[0] > 2:
        slope_y[1:-1] = (height[:-2] - height[2:]) * half
        slope_y[0], slope_y[-1] = slope_y[1], slope_y[-2]
    length = 1 / np.sqrt(slope_x * slope_x + slope_y * slope_y + 1)
    return Surface(slope_x * length, slope_y * length, length)


def pillow(coverage: Bytes, radius: float, depth: float) -> Floats:
    """Return a cushion-like relief over a shape: float32, rising by `depth` within `radius` (head units).

    `coverage` is the shape, uint8. The relief is the shape smoothed at two scales, which rounds its edges.
    """
    wide, narrow = finely_blurred(coverage, radius), finely_blurred(coverage, radius / 3)
    return wide * np.float32(depth / 65535) + narrow * np.float32(depth / 131070)


@cache
def _noise_sheet(grain: int) -> Bytes:
    """Return the repeatable noise of one grain (pixels per feature), uint8 (NOISE_SIZE, NOISE_SIZE)."""
    rng = np.random.default_rng([20240607, grain])
    cells = NOISE_SIZE // grain + 2
    coarse = rng.integers(0, 256, (cells, cells), dtype=np.uint8)
    size = cells * grain
    smooth = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_LINEAR_EXACT)
    if grain > 1:
        smooth = cv2.GaussianBlur(smooth, (2 * grain + 1, 2 * grain + 1), grain / 2)
    trimmed = smooth[:NOISE_SIZE, :NOISE_SIZE].astype(np.int32)
    low, high = int(trimmed.min()), int(trimmed.max())
    return ((trimmed - low) * 255 // (high - low)).astype(np.uint8)


def noise(rng: np.random.Generator, height: int, width: int, grain: int) -> Floats:
    """Return smooth noise, float32 (height, width) in -1..1, whose features are `grain` pixels wide."""
    sheet = _noise_sheet(grain)
    row = int(rng.integers(0, max(1, NOISE_SIZE - height)))
    column = int(rng.integers(0, max(1, NOISE_SIZE - width)))
    if height > NOISE_SIZE or width > NOISE_SIZE:
        sheet = np.tile(sheet, (height // NOISE_SIZE + 1, width // NOISE_SIZE + 1))
    return sheet[row : row + height, column : column + width] * np.float32(2 / 255) - 1
