"""Hair: sheets of strands between two guide curves, over a soft silhouette."""

from dataclasses import dataclass

import numpy as np

from .geometry import Bytes, Canvas, Floats, Points, curve, mirrored, unit
from .layers import Layer
from .light import noise, pillow, surface_of
from .scene import Scene


@dataclass(frozen=True)
class Sheet:
    """Strands that run from roots to tips between two guide curves, both float64 (n, 2)."""

    inner: Points
    outer: Points
    strands: int


def hair_behind(scene: Scene) -> list[Layer]:
    """Paint the hair that falls behind the neck: long hair and bobs."""
    person = scene.person
    if person.style not in ("long", "bob"):
        return []
    length = _length(scene)
    spread = 1.38 + 0.16 * person.wave
    half = curve([(0.5, -1.5), (1.2, -0.8), (spread, 0.2), (spread - 0.05, 1.0), (spread - 0.15, length - 0.2), (0.8, length), (0.1, length)], 30)
    inner = np.stack([np.linspace(0.0, 0.15, 30), half[:, 1]], axis=-1)
    sheets = [Sheet(inner, half, 150), Sheet(mirrored(inner), mirrored(half), 150)]
    return [_paint(scene, sheets, darkness=0.5)]


def hair(scene: Scene) -> list[Layer]:
    """Paint the hair on top of the head, around the face, and the fringe."""
    person = scene.person
    if person.style == "bald":
        return []
    sheets = {"long": _parted, "bob": _parted, "short": _parted, "swept": _swept, "tied": _swept, "cropped": _swept}[
        person.style
    ](scene)
    if person.bangs:
        sheets += _fringe(scene)
    return [_shadow(scene, sheets), _paint(scene, sheets)]


def _length(scene: Scene) -> float:
    if scene.person.style == "long":
        return 2.5 + 0.5 * scene.person.redness
    return 1.35 + 0.5 * scene.person.redness


def _hairline(scene: Scene) -> float:
    return -1.12 - 0.22 * scene.person.receding


def _parted(scene: Scene) -> list[Sheet]:
    """Return two sheets that fall to either side of a parting."""
    person = scene.person
    line, part = _hairline(scene), 0.9 * person.parting
    volume = 0.10 * person.wave + 0.06 * (not person.male)
    sheets = []
    for side in (1, -1):
        root = np.array([part, line])
        crown = np.array([part * 0.8, -1.98 - volume])
        edge = person.face_width
        temple = 0.10 * person.receding
        if person.style == "short":
            end = 0.12 if person.male else 0.45
            inner = curve([root, (side * (0.80 - temple), line + 0.26 - temple), (side * (edge - 0.09), -0.42), (side * (edge - 0.02), end)], 28)
            outer = curve([crown, (side * 0.95, -1.68 - volume), (side * (1.28 + volume), -0.85), (side * (edge + 0.10 + volume), end)], 28)
        else:
            length = _length(scene)
            tuck = 0.98 if person.style == "bob" else 1.02
            inner = curve([root, (side * 0.72, line + 0.24), (side * 1.00, -0.35), (side * 1.02, 0.5), (side * 0.95, 1.2), (side * tuck, length)], 28)
            wide = 1.45 + volume
            outer = curve([crown, (side * 0.98, -1.66 - volume), (side * (wide - 0.08), -0.65), (side * wide, 0.4), (side * (wide + 0.03), 1.2), (side * (wide - 0.05), length + 0.05)], 28)
        sheets.append(Sheet(inner, outer, 300))
    return sheets


def _swept(scene: Scene) -> list[Sheet]:
    """Return one sheet combed from the hairline over the head, down to the temples."""
    person = scene.person
    line, edge = _hairline(scene), person.face_width
    high = {"swept": 2.05, "cropped": 1.84, "tied": 1.86}[person.style]
    wide = {"swept": 0.14, "cropped": 0.06, "tied": 0.07}[person.style]
    end = 0.16 if person.male else 0.05
    corner = 0.16 * person.receding
    right = [(0.0, line - 0.03), (0.45, line), (0.84 - corner, line + 0.22 - corner), (0.93, -0.55), (edge - 0.10, -0.30), (edge - 0.02, end)]
    above = [(0.05 * person.parting, -high), (0.55, -high + 0.12), (0.98, -1.45), (edge + wide + 0.04, -0.85), (edge + wide + 0.02, -0.35), (edge + wide - 0.01, end)]
    sheets = []
    for side in (1, -1):
        turn = np.array([side, 1.0])
        inner, outer = curve(right, 40) * turn, curve(above, 40) * turn
        # The strands run across: from the hairline to the silhouette, leaning outwards.
        lean = np.linspace(0, 1, 12)[:, None]
        near = inner[0] + (outer[0] - inner[0]) * lean
        far = inner[-1] + (outer[-1] - inner[-1]) * lean
        del near, far
        sheets.append(Sheet(inner, outer, -260))
    if person.style == "tied" and person.redness > 0.5:
        u = np.linspace(0.15, 2 * np.pi - 0.15, 28)
        knot = np.stack([0.1 * person.parting + 0.48 * np.sin(u), -2.02 - 0.34 * (1 - np.cos(u)) * 0.5], axis=-1)
        sheets.append(Sheet(knot, knot * 0 + knot.mean(axis=0), 90))
    return sheets


def _fringe(scene: Scene) -> list[Sheet]:
    """Return strands that fall over the forehead."""
    person = scene.person
    part = 0.5 * person.parting
    left = curve([(part - 0.3, -1.75), (-0.85, -1.25), (-1.0, -0.72), (-1.03, -0.36)], 20)
    right = curve([(part + 0.3, -1.75), (0.85, -1.25), (1.0, -0.72), (1.03, -0.36)], 20)
    return [Sheet(left, right, 220)]


def _strands(scene: Scene, sheet: Sheet) -> tuple[Points, Points]:
    """Return the strands, float64 (count, points, 2), and the sheet's outline, float64 (n, 2)."""
    rng, person = scene.rng, scene.person
    count = abs(sheet.strands)
    across = sheet.strands < 0
    outline = np.concatenate([sheet.inner, sheet.outer[::-1]])
    if across:
        place = rng.uniform(0, 1, count)
        slant = 0.10 + 0.12 * rng.random(count)
        t = np.linspace(0, 1, 10)
        along = np.minimum(1.0, place[:, None] + slant[:, None] * t[None])
        knots = np.linspace(0, 1, len(sheet.inner))
        def at(guide: Points) -> Points:
            return np.stack([np.interp(along, knots, guide[:, axis]) for axis in (0, 1)], axis=-1)
        weight = (t**1.1)[None, :, None]
        lines = at(sheet.inner) * (1 - weight) + at(sheet.outer) * weight
    else:
        place = rng.uniform(0, 1, count)[:, None, None]
        lines = sheet.inner[None] * (1 - place) + sheet.outer[None] * place
        steps = np.linspace(0, 1, lines.shape[1])
        swing = (0.02 + 0.075 * person.wave) * np.minimum(1, 2.5 * steps)
        lock = np.floor(place[:, 0] * 9)
        phase = 2.1 * lock + rng.uniform(-0.5, 0.5, (count, 1))
        ripple = np.sin(phase + steps[None] * (9 if person.wave > 0.3 else 4)) * swing[None]
        lines[:, :, 0] += ripple
        lines[:, :, 1] += 0.35 * ripple
    lines = lines + rng.normal(0, 0.006, lines.shape)
    return lines, outline


def _paint(scene: Scene, sheets: list[Sheet], darkness: float = 1.0) -> Layer:
    """Return sheets of hair as one lit layer; `darkness` below 1 dims hair that lies in shadow."""
    drawn = [_strands(scene, sheet) for sheet in sheets]
    window = scene.canvas.around(np.concatenate([outline for _, outline in drawn]), 0.12)
    body = window.fill(*(outline for _, outline in drawn), softness=0.0)
    fly = window.strokes([(255, 1, lines) for lines, _ in drawn], softness=0.0)
    coverage = _merged(body, fly)
    texture = _texture(scene, window, [lines for lines, _ in drawn])
    relief = pillow(body, 0.22, 0.5)
    surface = surface_of(relief)
    tone = np.array(scene.person.hair_colour, np.float32) * np.float32(darkness)
    strand = (np.float32(0.58) + np.float32(0.62) * texture)[:, :, None]
    lit = scene.light.on(surface, np.broadcast_to(tone, (window.height, window.width, 3)), wrap=0.3) * strand
    band = window.bump(0.4 * scene.light.direction[0], -1.42, 0.9, 0.17) + np.float32(0.5) * window.pair(1.3, 0.2, 0.3, 0.5)
    sheen = band * texture * texture * np.float32(0.16 * darkness)
    return Layer(window, unit(coverage), lit + sheen[:, :, None] * (tone + np.float32(0.35)), "hair")


def _merged(body: Bytes, fly: Bytes) -> Bytes:
    """Return the silhouette with stray strands, softened, uint8."""
    from .geometry import blurred

    return np.maximum(blurred(body, 0.022), blurred(np.maximum(body, fly // 2), 0.008))


def _texture(scene: Scene, window: Canvas, bundles: list[Points]) -> Floats:
    """Return the brightness of the strands, float32 (height, width) in 0..1."""
    groups = []
    for lines in bundles:
        order = np.array_split(np.arange(len(lines)), 10)
        values = scene.rng.integers(20, 235, len(order))
        groups += [(int(value), 2 if i % 3 else 3, lines[part]) for i, (part, value) in enumerate(zip(order, values, strict=True))]
    strands = unit(window.strokes(groups, background=90, softness=0.010))
    return np.clip(strands + np.float32(0.16) * noise(scene.rng, window.height, window.width, 24), 0, 1)


def _shadow(scene: Scene, sheets: list[Sheet]) -> Layer:
    """Return the shadow that the hair throws on the face."""
    window = scene.face_window
    offset = np.array([-0.10 * scene.light.direction[0], 0.05 - 0.12 * scene.light.direction[1]])
    outlines = [np.concatenate([sheet.inner, sheet.outer[::-1]]) + offset for sheet in sheets]
    shade = unit(window.fill(*outlines, softness=0.06)) * np.float32(0.55)
    dark = scene.skin * scene.skin * np.array([0.42, 0.30, 0.28], np.float32)
    return Layer(window, shade, np.broadcast_to(dark, (window.height, window.width, 3)))
