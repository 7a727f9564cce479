"""Hair: sheets of strands between two guide curves, over a soft silhouette."""

from dataclasses import dataclass

import numpy as np

from synthetic.geometry import Canvas, Floats, Points, blurred, curve, mirrored, unit
from synthetic.layers import Layer
from synthetic.light import noise, pillow, surface_of
from synthetic.scene import Scene


@dataclass(frozen=True)
class Sheet:
    """Hair between two guide curves, both float64 (n, 2), that run from the roots to the tips.

    Attributes:
        inner: guide next to the face.
        outer: guide along the silhouette.
        strands: number of strands to draw.
        combed: the strands run across, from the inner guide to the outer one, instead of along both.
        lock: how unevenly the tips end, in head units.
    """

    inner: Points
    outer: Points
    strands: int
    combed: bool = False
    lock: float = 0.0


def hair_behind(scene: Scene) -> list[Layer]:
    """Paint the hair that falls behind the neck: long hair and bobs."""
    person = scene.person
    if person.style not in ("long", "bob"):
        return []
    length, spread = _length(scene), 1.32 + 0.2 * scene.wave
    y = [-1.5, -0.8, 0.2, 1.0, length - 0.3, length]
    half = curve([0.5, 1.2, spread, spread, spread - 0.1, spread - 0.2], y, 18)
    middle = np.stack([np.linspace(0.0, 0.1, 18), half[:, 1]], axis=-1)
    sides = ((middle, half), (mirrored(middle), mirrored(half)))
    return [_paint(scene, [Sheet(inner, outer, 60, lock=0.1) for inner, outer in sides], darkness=0.5)]


def hair(scene: Scene) -> list[Layer]:
    """Paint the hair on top of the head, around the face, and the fringe."""
    person = scene.person
    if person.style == "bald":
        return []
    sheets = _combed_back(scene) if person.style in ("swept", "tied", "cropped") else _parted(scene)
    layers = [_shadow(scene, sheets), _paint(scene, sheets)]
    if person.bangs and scene.moment.hat == "none":
        fringe = [_fringe(scene)]
        layers += [_shadow(scene, fringe), _paint(scene, fringe)]
    return layers


def _length(scene: Scene) -> float:
    """Return how far down the hair reaches (head y)."""
    if scene.person.style == "long":
        return 2.2 + 1.2 * scene.person.hair_length
    return 1.2 + 0.6 * scene.person.hair_length


def _hairline(scene: Scene) -> float:
    return -1.12 - 0.22 * scene.person.receding


def _parted(scene: Scene) -> list[Sheet]:
    """Return two sheets that fall to either side of a parting."""
    short = scene.person.style == "short"
    volume = 0.16 * scene.wave + 0.22 * (scene.volume - 0.3)
    sheets = []
    for side in (np.array([1.0, 1.0]), np.array([-1.0, 1.0])):
        inner, outer = _short_guides(scene, volume) if short else _long_guides(scene, volume)
        # The guides are those of the image's right half; the parting itself stays where it is.
        inner[1:] *= side
        outer[1:] *= side
        points = 18 if short else 24
        strands, lock = (150, 0.06) if short else (170, 0.16)
        inner, outer = (curve(guide[:, 0], guide[:, 1], points) for guide in (inner, outer))
        sheets.append(Sheet(inner, outer, strands, lock=lock))
    return sheets


def _roots(scene: Scene, volume: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the parting's front end, at the hairline, and its back end, on the crown."""
    parting = 0.9 * scene.person.parting
    return (parting, _hairline(scene)), (parting * 0.8, -1.90 - volume)


def _short_guides(scene: Scene, volume: float) -> tuple[Points, Points]:
    """Return control points of the inner and the outer guide of short hair, float64 (4, 2) each."""
    person, line, edge = scene.person, _hairline(scene), scene.person.face_width
    front, crown = _roots(scene, volume)
    temple = 0.10 * person.receding
    end = 0.08 + 0.25 * person.hair_length if person.male else 0.45
    inner = [front, (0.80 - temple, line + 0.26 - temple), (edge - 0.09, -0.42), (edge - 0.02, end)]
    outer = [crown, (0.95, -1.64 - volume), (1.22 + volume, -0.85), (edge + 0.08 + 0.5 * volume, end)]
    return np.array(inner), np.array(outer)


def _long_guides(scene: Scene, volume: float) -> tuple[Points, Points]:
    """Return control points of the inner and the outer guide of long hair, float64 (6, 2) each."""
    line, length = _hairline(scene), _length(scene)
    front, crown = _roots(scene, volume)
    wide = 1.36 + volume
    tips = wide - 0.05 + 0.25 * (scene.volume - 0.5)
    drop = 0.98 + 0.08 * scene.volume
    # Who wears earrings tucks the hair behind the ears, or nobody would see them.
    tuck = 0.20 if scene.moment.earrings != "none" else 0.0
    inner = [front, (0.70, line + 0.24), (0.99 + 0.5 * tuck, -0.35)]
    inner += [(drop + tuck, 0.3), (0.98 + tuck, 1.0), (drop - 0.05, length - 0.2)]
    outer = [crown, (0.96, -1.60 - volume), (wide - 0.10, -0.65)]
    outer += [(wide, 0.4), (wide + 0.04, 1.2), (tips, length)]
    return np.array(inner), np.array(outer)


def _combed_back(scene: Scene) -> list[Sheet]:
    """Return hair combed from the hairline over the head, with a knot for tied hair."""
    person = scene.person
    line, edge = _hairline(scene), person.face_width
    lift = 0.25 * (scene.volume - 0.4) if person.style == "swept" else 0.0
    high = {"swept": 2.00, "cropped": 1.83, "tied": 1.88}[person.style] + lift
    wide = {"swept": 0.12, "cropped": 0.05, "tied": 0.06}[person.style] + 0.3 * max(0.0, lift)
    end = 0.08 + 0.2 * person.hair_length if person.male else 0.02
    corner = 0.16 * person.receding
    y = [line - 0.03, line, line + 0.22 - corner, -0.55, -0.30, end]
    hairline = curve([0.0, 0.45, 0.84 - corner, 0.93, edge - 0.10, edge - 0.02], y, 40)
    x, y = edge + wide, [-high, -high + 0.12, -1.45, -0.85, -0.35, end]
    silhouette = curve([0.0, 0.55, 0.98, x + 0.04, x + 0.02, x - 0.02], y, 40)
    sides = ((hairline, silhouette), (mirrored(hairline), mirrored(silhouette)))
    sheets = [Sheet(inner, outer, 150, combed=True) for inner, outer in sides]
    if person.style == "tied" and scene.volume > 0.5:
        around = np.linspace(0.0, 2 * np.pi, 28)
        knot = np.stack([0.5 * np.sin(around), -2.05 - 0.30 * np.cos(around)], axis=-1)
        centre = 0.02 * knot + np.array([0.0, -2.02])
        sheets.insert(0, Sheet(centre, knot, 120))
    return sheets


def _fringe(scene: Scene) -> Sheet:
    """Return strands that fall over the forehead, to one side when the parting is to one side."""
    parting = scene.person.parting
    tilt = 0.35 * parting
    left = curve([0.8 * parting - 0.25, -0.80, -1.0, -1.04], [-1.72, -1.30, -0.80, -0.36 - tilt], 14)
    right = curve([0.8 * parting + 0.25, 0.80, 1.0, 1.04], [-1.72, -1.30, -0.80, -0.36 + tilt], 14)
    return Sheet(left, right, 140, lock=0.09)


def _across(scene: Scene, sheet: Sheet) -> tuple[Points, Points]:
    """Return strands across, float64 (count, points, 2), and the sheet's outline, float64 (n, 2)."""
    rng = scene.rng
    steps = np.linspace(0, 1, 8)
    slant = 0.08 + 0.12 * rng.random((sheet.strands, 1))
    position = np.minimum(1.0, rng.uniform(-0.05, 1, (sheet.strands, 1)) + slant * steps)
    knots = np.linspace(0, 1, len(sheet.inner))
    near, far = (
        np.stack([np.interp(position, knots, guide[:, axis]) for axis in (0, 1)], axis=-1)
        for guide in (sheet.inner, sheet.outer)
    )
    weight = (1.03 * steps**1.1)[:, None]
    lines = near * (1 - weight) + far * weight
    return lines + rng.normal(0, 0.005, lines.shape), np.concatenate([sheet.inner, sheet.outer[::-1]])


def _along(scene: Scene, sheet: Sheet) -> tuple[Points, Points]:
    """Return strands beside the guides, with uneven tips, and the outline; see `_across`."""
    rng = scene.rng
    steps = np.linspace(0, 1, len(sheet.inner))
    phase = rng.uniform(0, 6.28)
    # The whole sheet waves together, its locks a little out of step, so that the silhouette waves as well.
    swing = (0.015 + 0.085 * scene.wave) * np.minimum(1, 2.0 * steps)
    turns = 17 if scene.wave > 0.3 else 4

    def bend(position: Points, jitter: Points | float = 0.0) -> Points:
        points: Points = sheet.inner * (1 - position[:, None, None]) + sheet.outer * position[:, None, None]
        ripple = np.sin(phase + 4.0 * position[:, None] + jitter + turns * steps) * swing
        points[:, :, 0] += ripple
        points[:, :, 1] += 0.3 * ripple
        return points

    position: Points = np.linspace(0, 1, sheet.strands) + rng.normal(0, 0.01, sheet.strands)
    lines: Points = bend(rng.permutation(position), 0.35 * rng.standard_normal((sheet.strands, 1)))
    # Strands that end early or late make the tips uneven.
    uneven = sheet.lock * rng.standard_normal((sheet.strands, 1))
    lines[:, :, 1] += uneven * np.clip((steps - 0.6) / 0.4, 0, 1) ** 2
    inner, outer = bend(np.array([0.0, 1.0]))
    tips = bend(np.linspace(0, 1, 12))[:, -1]
    tips[:, 1] += sheet.lock * np.tile([0.5, -0.5, 0.15, -0.3], 3) * np.repeat(rng.uniform(0.3, 1.0, 6), 2)
    return lines, np.concatenate([inner, tips, outer[::-1]])


def _paint(scene: Scene, sheets: list[Sheet], darkness: float = 1.0) -> Layer:
    """Return sheets of hair as one lit layer; `darkness` below 1 dims hair that lies in shadow."""
    drawn = [(_across if sheet.combed else _along)(scene, sheet) for sheet in sheets]
    window = scene.canvas.around(np.concatenate([outline for _, outline in drawn]), 0.14)
    body = window.fill(*(outline for _, outline in drawn), softness=0.0)
    fly = window.strokes([(128, 1, lines[::3]) for lines, _ in drawn])
    coverage = np.maximum(blurred(body, 0.022), blurred(np.maximum(body, fly), 0.009))
    texture = _texture(scene, window, [lines for lines, _ in drawn])
    surface = surface_of(pillow(body, 0.24, 0.55))
    tone = np.array(scene.person.hair_colour, np.float32) * darkness
    strand = 0.45 + 0.85 * texture
    lit = scene.light.on(surface, tone * strand[:, :, None], wrap=0.3)
    band = window.bump(0.4 * scene.light.direction[0], -1.40, 0.9, 0.16)
    band += 0.6 * window.pair(1.25, 0.3, 0.25, 0.45)
    sheen = band * texture * texture * (0.20 * darkness)
    return Layer(window, unit(coverage), lit + sheen[:, :, None] * (tone + 0.30), "hair")


def _texture(scene: Scene, window: Canvas, bundles: list[Points]) -> Floats:
    """Return the brightness of the strands, float32 (height, width) in 0..1.

    Broad locks first, thin strands over them; each pass takes every bundle, so that none hides another's.
    """
    groups = []
    for thickness, share, low, high in ((5, 0.4, 75, 165), (2, 0.5, 40, 215), (1, 0.7, 10, 250)):
        values = scene.rng.permutation(np.linspace(low, high, 12).astype(np.int64))
        for lines in bundles:
            chosen = np.array_split(lines[: int(len(lines) * share)], len(values))
            groups += [(int(value), thickness, part) for value, part in zip(values, chosen, strict=True)]
    strands = unit(window.strokes(groups, background=100, softness=0.009))
    return np.clip(strands + 0.14 * noise(scene.rng, window.height, window.width, 24), 0, 1)


def _shadow(scene: Scene, sheets: list[Sheet]) -> Layer:
    """Return the shadow that the hair throws on the face."""
    window = scene.face_window
    offset = np.array([-0.10 * scene.light.direction[0], 0.04 - 0.10 * scene.light.direction[1]])
    outlines = [np.concatenate([sheet.inner, sheet.outer[::-1]]) + offset for sheet in sheets]
    shade = unit(window.fill(*outlines, softness=0.055)) * 0.5
    dark = scene.skin * scene.skin * np.array([0.42, 0.30, 0.28], np.float32)
    return Layer(window, shade, dark)
