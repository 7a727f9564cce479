"""Shirts, jackets, suits and ties."""

import numpy as np

from synthetic.geometry import Floats, Points, curve, mirrored, unit
from synthetic.layers import Layer
from synthetic.light import noise, pillow, surface_of
from synthetic.scene import Scene

COLOURS = np.array(
    [
        (0.90, 0.90, 0.88),
        (0.10, 0.10, 0.11),
        (0.16, 0.20, 0.34),
        (0.55, 0.13, 0.15),
        (0.30, 0.42, 0.58),
        (0.50, 0.50, 0.48),
        (0.22, 0.34, 0.26),
        (0.66, 0.45, 0.40),
        (0.36, 0.20, 0.34),
    ],
    np.float32,
)
SUITS = np.array([(0.09, 0.09, 0.10), (0.13, 0.15, 0.22), (0.28, 0.28, 0.30), (0.22, 0.18, 0.15)], np.float32)


def clothes(scene: Scene) -> list[Layer]:
    """Paint what is worn below the neck, according to `Moment.clothing`."""
    kinds = {"crew": _pullover, "neckline": _pullover, "shirt": _shirt, "jacket": _jacket, "tie": _suit}
    return kinds[scene.moment.clothing](scene)


def _shoulders(scene: Scene, half_opening: float, depth: float) -> Points:
    """Return a garment's outline whose neck opening is `depth` deep, float64 (n, 2)."""
    male, shift = scene.person.male, scene.moment.neck_shift
    top = 1.92 if male else 1.99
    right = curve(
        [half_opening, half_opening + 0.35, 1.5, 2.25 if male else 1.95, 2.9, 3.1],
        [top, top + 0.12, top + 0.30, top + 0.62 if male else top + 0.72, top + 1.6, 5.4],
        30,
    )
    opening = curve(
        [-half_opening, -half_opening * 0.72, 0.0, half_opening * 0.72, half_opening],
        [top, top + 0.75 * depth, top + depth, top + 0.75 * depth, top],
        24,
    )
    outline = np.concatenate([opening, right, mirrored(right)[::-1]])
    outline[:, 0] += shift
    return outline


def _fabric(scene: Scene, outline: Points, tone: Floats, folds: float = 1.0) -> Layer:
    """Return a piece of cloth with folds and weave as a lit layer."""
    window = scene.canvas.around(outline, 0.06)
    coverage = window.fill(outline, softness=0.012)
    shape = (window.height, window.width)
    relief = pillow(coverage, 0.16, 0.28)
    relief = relief + (0.035 * folds) * (noise(scene.rng, *shape, 40) + 0.6 * noise(scene.rng, *shape, 24))
    weave = 1 + 0.05 * noise(scene.rng, *shape, 2)
    shade = np.interp(window.y, [1.8, 2.6], [0.8, 1.0]).astype(np.float32)[:, None]
    lit = scene.light.on(surface_of(relief), tone * weave[:, :, None], shade, wrap=0.15)
    return Layer(window, unit(coverage), lit, "cloth")


def _tone(scene: Scene, palette: Floats) -> Floats:
    return palette[int(scene.rng.integers(len(palette)))] * scene.rng.uniform(0.85, 1.05)


def _pullover(scene: Scene) -> list[Layer]:
    deep = scene.moment.clothing == "neckline"
    wide = 0.95 if deep else 0.74 if scene.person.male else 0.70
    outline = _shoulders(scene, wide, float(scene.rng.uniform(0.6, 0.9)) if deep else 0.30)
    return [_fabric(scene, outline, _tone(scene, COLOURS))]


def _collar(scene: Scene, side: int) -> Points:
    shift = np.array([scene.moment.neck_shift, 0.0])
    points = np.array(
        [(0.78, 1.72), (0.84, 1.90), (0.72, 2.30), (0.42, 2.62), (0.12, 2.36), (0.50, 2.16), (0.70, 1.86)]
    )
    return points * np.array([side, 1.0]) + shift


def _shirt(scene: Scene) -> list[Layer]:
    tone = _tone(scene, COLOURS)
    body = _fabric(scene, _shoulders(scene, 0.80, 0.50), tone)
    collars = [_fabric(scene, _collar(scene, side), tone * 1.06, 0.2) for side in (1, -1)]
    return [body, *collars]


def _jacket(scene: Scene) -> list[Layer]:
    below = _fabric(scene, _shoulders(scene, 0.74, 0.34), _tone(scene, COLOURS))
    return [below, *_lapels(scene, _tone(scene, SUITS))]


def _lapels(scene: Scene, tone: Floats) -> list[Layer]:
    """Return the two open halves of a jacket."""
    male, shift = scene.person.male, scene.moment.neck_shift
    top = 1.86 if male else 1.93
    layers = []
    for side in (1, -1):
        half = np.concatenate(
            [
                curve([0.86, 0.78, 0.50, 0.12, 0.05], [top, 2.2, 2.75, 3.6, 5.4], 24),
                curve(
                    [3.2, 3.0, 2.35 if male else 2.05, 1.55, 1.1, 0.86],
                    [5.4, top + 1.7, top + 0.68, top + 0.34, top + 0.14, top],
                    24,
                ),
            ]
        ) * np.array([side, 1.0]) + np.array([shift, 0.0])
        x = [0.88, 0.80, 0.50, 0.12, 0.55, 0.98, 0.86, 1.08, 1.0]
        y = [top - 0.01, 2.2, 2.75, 3.6, 3.1, 2.62, 2.45, 2.38, 1.98]
        lapel = np.stack([x, y], axis=-1) * np.array([side, 1.0]) + np.array([shift, 0.0])
        layers.append(_fabric(scene, half, tone))
        layers.append(_fabric(scene, lapel, tone * 1.12, 0.2))
    return layers


def _suit(scene: Scene) -> list[Layer]:
    """Paint shirt, necktie and jacket."""
    shift = np.array([scene.moment.neck_shift, 0.0])
    white = COLOURS[0] * scene.rng.uniform(0.88, 1.02)
    shirt = _fabric(scene, _shoulders(scene, 0.80, 0.42), white)
    collars = [_fabric(scene, _collar(scene, side), white * 1.05, 0.2) for side in (1, -1)]
    tone = _tone(scene, COLOURS[1:])
    knot = np.array([(-0.17, 2.22), (0.17, 2.22), (0.12, 2.50), (-0.12, 2.50)]) + shift
    blade = np.array([(-0.11, 2.46), (0.11, 2.46), (0.30, 5.3), (-0.30, 5.3)]) + shift
    tie = [_fabric(scene, piece, tone, 0.3) for piece in (blade, knot)]
    return [shirt, *tie, *collars, *_lapels(scene, _tone(scene, SUITS))]
