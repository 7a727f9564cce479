"""Mouth and the hair around it."""

import numpy as np

from synthetic.geometry import Canvas, Floats, Points, curve, symmetric, unit
from synthetic.layers import Layer
from synthetic.light import noise, surface_of
from synthetic.scene import Scene

LIPSTICKS = np.array(
    [(0.70, 0.12, 0.16), (0.78, 0.25, 0.32), (0.62, 0.18, 0.24), (0.80, 0.36, 0.38), (0.55, 0.10, 0.14)],
    np.float32,
)


def lip_lines(scene: Scene) -> tuple[Points, Points, Points, Points]:
    """Return the mouth's four curves from top to bottom, each float64 (33, 2) from left to right.

    They are the upper lip's top, its lower edge, the lower lip's upper edge and its bottom; the middle two
    coincide when the mouth is closed.
    """
    person, moment = scene.person, scene.moment
    smile, opened = moment.smile, moment.mouth_open
    width = person.mouth_width + 0.075 * smile
    u = np.linspace(-1, 1, 33)
    rise = np.sqrt(np.maximum(0, 1 - u * u))
    seam = 1.075 + 0.035 * smile - 0.115 * smile * u * u + 0.012 * np.cos(3 * u) * (1 - abs(smile))
    seam = seam + person.asymmetry * u
    gap = opened * rise * (0.72 + 0.28 * rise)
    bow = 1 - 0.20 * np.exp(-((u / 0.13) ** 2)) - 0.42 * u * u
    full = person.lip_fullness * (1 - 0.18 * max(0.0, smile))
    upper_edge, lower_edge = seam - 0.30 * gap, seam + 0.70 * gap
    top = upper_edge - 0.135 * full * rise * bow
    bottom = lower_edge + 0.178 * full * rise * (0.65 + 0.35 * rise)
    x = width * u
    a, b, c, d = (np.stack([x, y], axis=-1) for y in (top, upper_edge, lower_edge, bottom))
    return a, b, c, d


def mouth(scene: Scene) -> list[Layer]:
    """Paint teeth and lips."""
    top, upper_edge, lower_edge, bottom = lip_lines(scene)
    upper = np.concatenate([top, upper_edge[::-1]])
    lower = np.concatenate([lower_edge, bottom[::-1]])
    window = scene.canvas.around(np.concatenate([top, bottom]), 0.08)
    full = unit(window.fill(upper, softness=0.045)) + 1.3 * unit(window.fill(lower, softness=0.05))
    surface = surface_of(scene.face_crop(window, scene.relief) + 0.10 * full)
    layers = []
    if scene.moment.mouth_open > 0:
        opening = np.concatenate([upper_edge, lower_edge[::-1]])
        inside = _inside(scene, window, upper_edge, lower_edge)
        layers.append(Layer(window, unit(window.fill(opening, softness=0.008)), inside, "mouth"))
    tone = _lip_colour(scene, window)
    gloss = scene.light.gloss(surface, 5) * (0.34 if scene.moment.lipstick else 0.16)
    for lip, shade, class_name in ((upper, tone * 0.90, "u_lip"), (lower, tone, "l_lip")):
        lit = scene.light.on(surface, shade, 1.0, wrap=0.3) + gloss[:, :, None]
        layers.append(Layer(window, unit(window.fill(lip, softness=0.012)), lit, class_name))
    if scene.moment.mouth_open == 0:
        seam = unit(window.strokes([(235, 2, upper_edge[None])], softness=0.012))
        dark = scene.skin * scene.skin * np.array([0.36, 0.16, 0.16], np.float32)
        layers.append(Layer(window, seam, dark))
    return layers


def _lip_colour(scene: Scene, window: Canvas) -> Floats:
    wrinkles = noise(scene.rng, window.height, window.width, 3)[:, :, None] * 0.06
    if scene.moment.lipstick:
        stick = LIPSTICKS[int(scene.rng.integers(len(LIPSTICKS)))]
        tone = 0.85 * stick + 0.15 * scene.skin
    else:
        tone = scene.skin * np.array([0.86, 0.64, 0.65], np.float32)
    return np.asarray(tone * (1 + wrinkles), np.float32)


def _inside(scene: Scene, window: Canvas, upper_edge: Points, lower_edge: Points) -> Floats:
    """Return the dark of the mouth with the upper teeth in it, float32 (height, width, 3)."""
    cave = np.array([0.20, 0.07, 0.07], np.float32)
    colour = np.broadcast_to(cave, (window.height, window.width, 3)).copy()
    share = 0.85 if scene.moment.smile > 0.5 else 0.45
    reach = upper_edge + (lower_edge - upper_edge) * share
    teeth = np.concatenate([upper_edge[3:-3] + np.array([0.0, 0.012]), reach[3:-3][::-1]])
    width = scene.person.mouth_width + 0.075
    bright = np.sqrt(np.array(scene.light.lamp, np.float32) * 0.85 + 0.25)
    ivory = np.array([0.93, 0.90, 0.85], np.float32) * bright
    fade = 1 - 0.75 * np.minimum(1, (window.x / (width * 0.92)) ** 2).astype(np.float32)
    gaps = np.array([-0.335, -0.25, -0.155, 0.0, 0.155, 0.25, 0.335])
    lines = np.stack([np.stack([gaps, np.full(7, y)], axis=-1) for y in (0.9, 1.6)], axis=1)
    split = unit(window.strokes([(90, 1, lines)], softness=0.01))
    row = unit(window.fill(teeth, softness=0.012))
    enamel = ivory * ((fade[None] * (1 - split))[:, :, None])
    colour += row[:, :, None] * (enamel - colour)
    shadow = unit(window.strokes([(255, 3, upper_edge[None])], softness=0.02))
    return colour * (1 - 0.5 * shadow)[:, :, None]


def facial_hair(scene: Scene) -> list[Layer]:
    """Paint stubble, mustache, goatee or beard; skin stays skin in the mask, as annotators have it."""
    kind, window = scene.person.facial_hair, scene.face_window
    if kind == "none":
        return []
    half = scene.face_half_outline
    jaw = half[half[:, 1] > 0.45]
    cheek = curve([0.0, 0.30, 0.55, 0.72, 0.95, jaw[0, 0]], [0.86, 0.84, 0.98, 0.98, 0.72, jaw[0, 1]], 24)
    beard = symmetric(np.concatenate([cheek, jaw[1:]]))
    heights = [1.34, 1.34, 1.2, 1.32, scene.person.chin - 0.12, scene.person.chin]
    chin = symmetric(curve([0.0, 0.28, 0.46, 0.54, 0.42, 0.0], heights, 20))
    lip = lip_lines(scene)[0]
    top = lip + np.array([0.0, -0.10]) * np.interp(np.abs(lip[:, :1]), [0, 0.4], [1.25, 0.7])
    under = lip * np.array([1.10, 1.0]) + np.array([0.0, 0.03])
    mustache = np.concatenate([top * np.array([1.12, 1.0]), under[::-1]])
    density = {"stubble": 0.30, "beard": 0.80, "goatee": 0.82, "mustache": 0.0}[kind]
    extent = unit(window.fill(chin if kind == "goatee" else beard, softness=0.05)) * density
    if scene.person.mustache:
        extent = np.maximum(extent, 0.92 * unit(window.fill(mustache, softness=0.018)))
    elif kind == "goatee":
        extent = np.maximum(extent, 0.35 * unit(window.fill(mustache, softness=0.03)))
    grain = noise(scene.rng, window.height, window.width, 2)
    coverage = np.clip(extent * (1 + 0.3 * grain), 0, 1)
    tone = np.array(scene.person.hair_colour, np.float32) * 0.75
    if kind == "stubble":
        tone = np.minimum(tone, np.array([0.28, 0.26, 0.27], np.float32))
    colour = scene.light.on(scene.face_surface, tone)
    colour *= (1 + 0.2 * grain)[:, :, None]
    return [Layer(window, coverage, colour)]
