"""Things worn on the head and round the neck: spectacles, hats, earrings and necklaces."""

import numpy as np

from synthetic.eyes import EYE_X
from synthetic.geometry import Floats, Points, curve, ellipse, mirrored, symmetric, unit
from synthetic.layers import Layer
from synthetic.light import noise, pillow, surface_of
from synthetic.scene import Scene

METALS = np.array([(0.86, 0.70, 0.36), (0.82, 0.82, 0.84), (0.72, 0.52, 0.40)], np.float32)
FABRICS = np.array(
    [
        (0.10, 0.10, 0.12),
        (0.15, 0.19, 0.34),
        (0.52, 0.12, 0.13),
        (0.62, 0.60, 0.56),
        (0.24, 0.30, 0.22),
        (0.42, 0.31, 0.22),
        (0.85, 0.84, 0.82),
    ],
    np.float32,
)


def glasses(scene: Scene) -> list[Layer]:
    """Paint spectacles or sunglasses; the class covers frame and lenses, as annotators have it."""
    kind = scene.moment.glasses
    if kind == "none":
        return []
    rng = scene.rng
    round_, drop = rng.uniform(2.3, 4.5), rng.uniform(0.03, 0.08)
    width, height = rng.uniform(0.36, 0.41), rng.uniform(0.21, 0.27) * (1.12 if kind == "dark" else 1.0)
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    cos, sin = np.cos(angle), np.sin(angle)
    power = 2 / round_  # a superellipse: exponent 2 is round, higher is boxy
    across, down = (length * np.sign(c) * np.abs(c) ** power for length, c in ((width, cos), (height, sin)))
    lens = np.stack([EYE_X + 0.005 + across, drop + down], axis=-1)
    rim = np.concatenate([lens, lens[:1]])
    rims = np.stack([rim, mirrored(rim)])
    bridge = curve([-0.15, 0.0, 0.15], [drop - 0.04, drop - 0.10, drop - 0.04], 12)[None]
    hinge = 0.5 + width
    temple = np.array([[(hinge - 0.02, drop - 0.08), (scene.person.face_width + 0.02, drop - 0.10)]])
    temples = np.concatenate([temple, mirrored(temple)])
    thickness = int(rng.integers(4, 8)) if kind == "clear" else int(rng.integers(6, 9))
    window = scene.canvas.window(-1.3, drop - 0.5, 1.3, drop + 0.5)
    frame = window.strokes([(255, thickness, lines) for lines in (rims, bridge, temples)], softness=0.008)
    glass = window.fill(lens, mirrored(lens))
    tones = np.array([(0.06, 0.055, 0.06), (0.22, 0.13, 0.08), (0.36, 0.36, 0.38)], np.float32)
    frame_tone = tones[int(rng.integers(3)) if kind == "clear" else 0]
    if kind == "dark":
        slope = np.clip((window.y - drop + 0.25) / 0.5, 0, 1).astype(np.float32)[:, None]
        slope = np.repeat(slope, window.width, axis=1)
        tint = np.array([0.05, 0.05, 0.06], np.float32) + 0.16 * slope[:, :, None]
        lens_coverage = unit(glass) * 0.94
    else:
        tint = np.array([0.75, 0.80, 0.85], np.float32)
        distance = ((window.x[None] % 1.0) - 0.62 + 0.5 * (window.y[:, None] - drop)) / 0.05
        streak = np.exp(-(distance**2)).astype(np.float32)
        lens_coverage = unit(glass) * (0.06 + 0.22 * streak * rng.uniform(0.2, 1.0))
    below = [(255, thickness, rims + np.array([0, 0.055])), (255, thickness, bridge + np.array([0, 0.05]))]
    shadow = window.strokes(below, softness=0.03)
    dark = scene.skin * scene.skin * 0.4
    surface = surface_of(pillow(frame, 0.03, 0.05))
    lit = scene.light.on(surface, frame_tone)
    lit += (0.35 * scene.light.gloss(surface, 4))[:, :, None] * unit(frame)[:, :, None]
    return [
        Layer(window, unit(shadow) * 0.45, dark),
        Layer(window, lens_coverage, tint, "eye_g", glass),
        Layer(window, unit(frame), lit, "eye_g"),
    ]


def hat(scene: Scene) -> list[Layer]:
    """Paint a baseball cap, a beanie or a brimmed hat."""
    kind, rng = scene.moment.hat, scene.rng
    if kind == "none":
        return []
    tone = FABRICS[int(rng.integers(len(FABRICS)))] * rng.uniform(0.85, 1.1)
    edge, brow = scene.person.face_width + 0.19, -0.62
    height = {"cap": -2.05, "beanie": -2.2, "brim": -2.25}[kind]
    y = [height, height + 0.10, height + 0.55, -1.1, brow + 0.05, brow - 0.05, brow - 0.10]
    dome = symmetric(curve([0.0, 0.62, 1.08, edge, edge, 0.7, 0.0], y, 48))
    layers = [_hat_shadow(scene, brow)]
    layers.append(_cloth_layer(scene, dome, tone, depth=1.1, radius=0.45, knit=kind == "beanie"))
    if kind == "cap":
        below_brow = np.array([-0.30, -0.25, 0.02, 0.20, 0.12, 0.09])
        peak = symmetric(curve([0.0, 0.6, 1.05, 1.10, 0.65, 0.0], brow + below_brow, 36))
        darker = tone * scene.rng.uniform(0.45, 0.9)
        return [*layers, _cloth_layer(scene, peak, darker, depth=0.5, radius=0.12)]
    if kind == "beanie":
        below_brow = np.array([-0.50, -0.44, -0.30, 0.07, 0.02, -0.04])
        cuff = symmetric(curve([0.0, 0.8, edge + 0.02, edge + 0.03, 0.8, 0.0], brow + below_brow, 36))
        return [*layers, _cloth_layer(scene, cuff, tone, depth=0.5, radius=0.14, knit=True)]
    below_brow = np.array([-0.52, -0.49, -0.40, -0.15, -0.2, -0.2])
    band = symmetric(curve([0.0, 0.7, edge, edge, 0.7, 0.0], brow + below_brow, 36))
    layers.append(_cloth_layer(scene, band, tone * 0.35, depth=0.2, radius=0.1))
    brim = ellipse(0.0, brow - 0.14, 1.75, 0.20)
    return [*layers, _cloth_layer(scene, brim, tone, depth=0.5, radius=0.12)]


def _hat_shadow(scene: Scene, brow: float) -> Layer:
    window = scene.face_window
    lower = np.interp(window.y, [brow - 0.1, brow + 0.05, brow + 0.35], [0.75, 0.6, 0.0]).astype(np.float32)
    dark = scene.skin * scene.skin * 0.35
    return Layer(window, np.repeat(lower[:, None], window.width, axis=1), dark)


def _cloth_layer(
    scene: Scene, outline: Points, tone: Floats, depth: float, radius: float, knit: bool = False
) -> Layer:
    window = scene.canvas.around(outline, 0.06)
    coverage = window.fill(outline, softness=0.012)
    shape = (window.height, window.width)
    texture = 1 + 0.10 * noise(scene.rng, *shape, 24) + 0.07 * noise(scene.rng, *shape, 2)
    if knit:
        ribs = np.cos(window.x * (2 * np.pi / 0.085)) * 0.5 + 0.5
        texture = texture * (0.72 + 0.28 * ribs[None].astype(np.float32))
    surface = surface_of(pillow(coverage, radius, depth))
    lit = scene.light.on(surface, tone * texture[:, :, None], 1.0, wrap=0.15)
    return Layer(window, unit(coverage), lit, "hat")


def earrings(scene: Scene) -> list[Layer]:
    """Paint a pair of studs, hoops or drops at the ear lobes."""
    kind, rng = scene.moment.earrings, scene.rng
    if kind == "none":
        return []
    metal = METALS[int(rng.integers(len(METALS)))]
    x, y, size = scene.person.face_width + 0.06, 0.62, rng.uniform(0.8, 1.25)
    parts = {
        "stud": [(0.0, 0.075 * size, 0.075 * size)],
        "drop": [(0.0, 0.05, 0.05), (0.16, 0.045, 0.14 * size), (0.36, 0.095 * size, 0.12 * size)],
        "hoop": [(0.27, 0.20 * size, 0.27 * size)],
    }
    shapes = [ellipse(x, y + below * size, width, height) for below, width, height in parts[kind]]
    layers = []
    for turn in (np.array([1.0, 1.0]), np.array([-1.0, 1.0])):
        window = scene.canvas.around(np.concatenate(shapes) * turn, 0.08)
        if kind == "hoop":
            ring = np.concatenate([shapes[0], shapes[0][:1]]) * turn
            coverage = window.strokes([(255, 6, ring[None])], softness=0.008)
            # Annotators, and the parsers that learned from them, fill the ring.
            extent = np.maximum(coverage, window.fill(shapes[0] * turn))
        else:
            extent = coverage = window.fill(*(shape * turn for shape in shapes), softness=0.01)
        surface = surface_of(pillow(coverage, 0.05, 0.09))
        tone = metal * (1 + 0.35 * noise(rng, window.height, window.width, 4))[:, :, None]
        lit = scene.light.on(surface, tone) + scene.light.gloss(surface, 3)[:, :, None] * 0.6
        layers.append(Layer(window, unit(coverage), lit, "ear_r", extent))
    return layers


def necklace(scene: Scene) -> list[Layer]:
    """Paint a string of beads or a chain."""
    if not scene.moment.necklace:
        return []
    rng, shift = scene.rng, scene.moment.neck_shift
    metal = METALS[int(rng.integers(len(METALS)))]
    bottom = rng.uniform(2.15, 2.45)
    x = np.array([-0.66, -0.45, 0.0, 0.45, 0.66]) + shift
    string = curve(x, [1.92, bottom - 0.1, bottom, bottom - 0.1, 1.92], 26)
    window, radius = scene.canvas.around(string, 0.12), 0.045 if rng.random() < 0.6 else 0.03
    beads = window.fill(*(ellipse(x, y, radius, radius, count=12) for x, y in string), softness=0.008)
    coverage = np.maximum(beads, window.strokes([(230, 3, string[None])], softness=0.008))
    surface = surface_of(pillow(coverage, 0.04, 0.08))
    lit = scene.light.on(surface, metal) + scene.light.gloss(surface, 3)[:, :, None] * 0.5
    return [Layer(window, unit(coverage), lit, "neck_l")]
