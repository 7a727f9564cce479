"""Head, ears, nose and neck: everything that is bare skin."""

import numpy as np

from synthetic.geometry import Canvas, Floats, Points, curve, ellipse, mirrored, symmetric, unit
from synthetic.layers import Layer
from synthetic.light import Surface, noise, pillow, surface_of
from synthetic.scene import Scene


def _skin(
    scene: Scene, window: Canvas, surface: Surface, occlusion: Floats, redness: Floats, shine: float = 0.16
) -> Floats:
    """Return lit skin, float32 (height, width, 3); `redness` in 0..1 is blood under it."""
    shape = (window.height, window.width)
    mottle = noise(scene.rng, *shape, 24) * 0.02
    pores = noise(scene.rng, *shape, 2) * (0.014 if scene.person.young else 0.024)
    tone = scene.skin * (1 + mottle + pores)[:, :, None]
    blood = 0.16 * redness
    tone[:, :, 0] += 0.15 * blood
    tone[:, :, 1] -= blood * tone[:, :, 1]
    tone[:, :, 2] -= 0.8 * blood * tone[:, :, 2]
    lit = scene.light.on(surface, tone, occlusion, wrap=0.35)
    # Shadows on skin turn red: the light in them has travelled through it.
    lit[:, :, 1:] *= (0.93 + 0.07 * occlusion)[:, :, None]
    gloss = scene.light.gloss(surface, 4) * (shine * (1 + 4 * pores))
    return lit + gloss[:, :, None] * occlusion[:, :, None]


def ears(scene: Scene) -> list[Layer]:
    """Paint both ears; hair that is painted later may hide them."""
    layers = []
    for side, class_name in ((1, "l_ear"), (-1, "r_ear")):
        x = side * (scene.person.face_width + 0.11)
        across = side * np.array([-0.17, -0.02, 0.15, 0.15, 0.03, -0.08, -0.19])
        outline = curve(x + across, [-0.05, -0.16, -0.10, 0.18, 0.48, 0.64, 0.6], 30)
        window = scene.canvas.around(outline, 0.05)
        coverage = window.fill(outline, softness=0.014)
        hollow = window.bump(x, 0.12, 0.055, 0.15) + window.bump(x - side * 0.06, 0.32, 0.05, 0.09)
        rim = pillow(coverage, 0.09, 0.12) - 0.05 * hollow
        occlusion = 1 - 0.5 * np.minimum(hollow, 1)
        redness = np.full_like(occlusion, 0.55)
        skin = _skin(scene, window, surface_of(rim), occlusion, redness, 0.05)
        layers.append(Layer(window, unit(coverage), skin, class_name))
    return layers


def neck(scene: Scene) -> list[Layer]:
    """Paint neck and chest, with the chin's shadow on them."""
    shift, male = scene.moment.neck_shift, scene.person.male
    half_width = 0.80 if male else 0.66
    side = curve(
        [half_width, half_width - 0.03, half_width + 0.02, half_width + 0.3, 2.1, 2.9, 3.0],
        [0.9, 1.6, 2.05, 2.4, 2.85, 3.3, 5.2],
        30,
    )
    outline = symmetric(side)
    outline[:, 0] += shift * np.clip((outline[:, 1] - 0.9) / 1.3, 0, 1)
    window = scene.canvas.window(-1.7, 0.85, 1.7, 3.6)
    coverage = window.fill(outline, softness=0.02)
    round_ = np.sqrt(np.maximum(np.float32(0.05), 1 - ((window.x - shift) / (half_width + 0.12)) ** 2))
    relief = np.repeat(0.75 * round_.astype(np.float32)[None], window.height, axis=0)
    tendon = window.bump(shift + 0.26, 2.1, 0.07, 0.35) + window.bump(shift - 0.26, 2.1, 0.07, 0.35)
    hollow = window.bump(shift, 2.5, 0.12, 0.1)
    relief = relief + 0.018 * tendon - 0.06 * hollow
    # The lamp throws the jaw's shadow down the neck, the further the higher it stands.
    x, y, _ = scene.light.direction
    jaw = scene.face_outline + np.array([-0.25 * x, 0.10 - 0.35 * y])
    shadow = unit(window.fill(jaw, softness=0.09))
    occlusion = 1 - 0.62 * shadow
    occlusion *= np.interp(window.y, [1.2, 2.2], [0.72, 1.0]).astype(np.float32)[:, None]
    redness = np.full(occlusion.shape, 0.15, np.float32)
    skin = _skin(scene, window, surface_of(relief), occlusion, redness, 0.08)
    return [Layer(window, unit(coverage), skin, "neck")]


def face(scene: Scene) -> list[Layer]:
    """Paint the face without its features: forehead, cheeks and chin."""
    window, person, moment = scene.face_window, scene.person, scene.moment
    coverage = unit(window.fill(scene.face_outline, softness=0.012))
    smile = max(0.0, moment.smile)
    nose_side, nose_tip = person.nose_width - 0.01, person.nose_length
    hollows = {
        "inner eye corners": (0.34, window.pair(0.27, -0.06, 0.07, 0.09)),
        "lid creases": (0.10, window.pair(0.5, -0.13, 0.2, 0.06)),
        "nose wings": (0.30, window.pair(nose_side, nose_tip - 0.05, 0.04, 0.07)),
        "below the nose": (0.30, window.bump(0.0, nose_tip + 0.06, 0.16, 0.05)),
        "below the lips": (0.15, window.bump(0.0, 1.37, 0.2, 0.045)),
        "mouth corners": (0.14, window.pair(0.56, 1.1 - 0.05 * smile, 0.05, 0.06)),
        "below the eyes": (0.34 if person.bags else 0.09, window.pair(0.48, 0.18, 0.16, 0.035)),
        "wrinkles": (0.55, unit(_wrinkles(scene, window))),
    }
    flushes = {
        "nose": (0.5, window.bump(0.0, 0.6, 0.16, 0.12)),
        "cheeks": (1.6 if person.rosy else 0.5, window.pair(0.68, 0.56, 0.22, 0.16)),
        "eyelids": (0.35, window.pair(0.5, 0.02, 0.24, 0.12)),
        "chin": (0.2, window.bump(0.0, person.chin - 0.2, 0.2, 0.1)),
    }
    occlusion = np.maximum(0.15, 1 - _sum(hollows))
    redness = _sum(flushes)
    shine = 0.10 + 0.12 * scene.person.melanin
    skin = _skin(scene, window, scene.face_surface, occlusion, redness, shine)
    return [Layer(window, coverage, skin, "skin")]


def _sum(terms: dict[str, tuple[float, Floats]]) -> Floats:
    """Return the weighted sum of named images, float32 (height, width)."""
    total: Floats = np.zeros_like(next(iter(terms.values()))[1])
    for weight, image in terms.values():
        total += weight * image
    return total


def _wrinkles(scene: Scene, window: Canvas) -> np.ndarray:
    """Return the folds of smile and age, uint8 (height, width)."""
    smile, young = max(0.0, scene.moment.smile), scene.person.young
    fold = curve([0.34, 0.50, 0.60, 0.60], [0.66, 0.82, 1.02, 1.18], 12)
    lines: list[Points] = [fold, mirrored(fold)]
    strength = int(45 + 75 * smile + (0 if young else 45))
    groups = [(strength, 3, np.stack(lines))]
    bag = curve([0.30, 0.46, 0.66], [0.10, 0.2, 0.15], 12)
    if scene.person.bags or not young:
        groups.append((95, 2, np.stack([bag, mirrored(bag)])))
    if not young:
        across = np.linspace(-0.6, 0.6, 12)
        forehead = [np.stack([across, y + 0.05 * np.cos(across * 5)], axis=-1) for y in (-0.62, -0.78, -0.94)]
        groups.append((70, 1, np.stack(forehead)))
        crow = np.stack([curve([0.78, 0.95], [dy, dy * 2.2 - 0.02], 12) for dy in (-0.05, 0.02, 0.08)])
        groups.append((80, 1, np.concatenate([crow, mirrored(crow)])))
    return window.strokes(groups, softness=0.028)


def nose(scene: Scene) -> list[Layer]:
    """Mark the nose, whose shading the face already has, and paint the nostrils."""
    width, bottom = scene.person.nose_width, scene.person.nose_length
    half = curve(
        [0.0, 0.12, 0.125, 0.20, width, width - 0.04, 0.12, 0.0],
        [-0.1, -0.06, 0.2, bottom - 0.26, bottom - 0.12, bottom, bottom + 0.05, bottom + 0.07],
        30,
    )
    outline = symmetric(half)
    window = scene.canvas.around(outline, 0.06)
    nostril = ellipse(0.42 * width, bottom - 0.005, 0.36 * width, 0.030, -0.2)
    holes = unit(window.fill(nostril, mirrored(nostril), softness=0.016))
    wing = curve(
        [width - 0.05, width, width - 0.03, 0.62 * width],
        [bottom - 0.19, bottom - 0.1, bottom - 0.01, bottom],
        14,
    )
    creases = unit(window.strokes([(150, 2, np.stack([wing, mirrored(wing)]))], softness=0.014))
    shade = scene.skin * scene.skin * np.array([0.42, 0.26, 0.24], np.float32)
    return [
        Layer(window, np.zeros_like(holes), shade, "nose", window.fill(outline)),
        Layer(window, np.minimum(1, 0.9 * holes + 0.5 * creases), shade),
    ]
