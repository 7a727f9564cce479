"""Eyes and eyebrows."""

import numpy as np

from synthetic.geometry import Canvas, Floats, Points, curve, ellipse, unit
from synthetic.layers import Layer
from synthetic.light import noise
from synthetic.scene import Scene

EYE_X = 0.5


def eye_outline(scene: Scene, side: int) -> tuple[Points, Points]:
    """Return the upper and the lower lid from the inner to the outer corner, two float64 (25, 2).

    `side` is 1 for the eye on the image's right (the subject's left) and -1 for the other.
    """
    person, moment = scene.person, scene.moment
    smile = max(0.0, moment.smile)
    u = np.linspace(-1, 1, 25)
    arch = np.sqrt(np.maximum(0, 1 - u * u))
    upper = 0.105 * person.eye_size * moment.lids * (1 - 0.18 * smile)
    lower = 0.062 * person.eye_size * (1 - 0.30 * smile)
    corner_line = 0.012 - person.eye_tilt * (u + 1) * 0.8
    x = side * (EYE_X + 0.212 * u)
    lid = np.stack([x, corner_line - upper * arch * (1 - 0.12 * u)], axis=-1)
    return lid, np.stack([x, corner_line + lower * arch * (1 + 0.2 * u)], axis=-1)


def eyes(scene: Scene) -> list[Layer]:
    """Paint both eyes with iris, catchlight, lids and lashes."""
    layers = []
    for side, class_name in ((1, "l_eye"), (-1, "r_eye")):
        upper, lower = eye_outline(scene, side)
        outline = np.concatenate([upper, lower[::-1]])
        window = scene.canvas.around(outline, 0.16)
        ball, coverage = _eyeball(scene, window, side, upper), window.fill(outline, softness=0.008)
        layers.append(Layer(window, unit(coverage), ball, class_name))
        layers.append(_lids(scene, window, side, upper, lower))
    return layers


def _eyeball(scene: Scene, window: Canvas, side: int, upper: Points) -> Floats:
    """Return sclera, iris, pupil and catchlight, lit, float32 (height, width, 3)."""
    person, light = scene.person, scene.light
    x, y = EYE_X * side + scene.moment.gaze[0], scene.moment.gaze[1] - 0.008
    white = np.array([0.86, 0.82, 0.80], np.float32)
    colour = np.broadcast_to(white, (window.height, window.width, 3)).copy()
    colour *= (1.04 + 0.05 * noise(scene.rng, window.height, window.width, 4))[:, :, None]
    # The ball turns away towards the corners, where it also reddens.
    away = np.minimum(1, np.abs(window.x - EYE_X * side) / 0.21).astype(np.float32) ** 2
    colour *= 1 - away[None, :, None] * np.array([0.22, 0.34, 0.34], np.float32)
    radius = 0.106
    iris = unit(window.fill(ellipse(x, y, radius, radius), softness=0.012))
    ring = unit(window.fill(ellipse(x, y, 0.8 * radius, 0.8 * radius), softness=0.02))
    pupil = unit(window.fill(ellipse(x, y, 0.038, 0.038), softness=0.008))
    grain = noise(scene.rng, window.height, window.width, 2)
    tone = np.array(person.iris, np.float32) * (0.95 + 0.35 * grain)[:, :, None]
    tone *= (0.38 + 0.62 * ring)[:, :, None]
    colour += iris[:, :, None] * (tone - colour)
    colour *= (1 - 0.93 * pupil)[:, :, None]
    shadow = unit(window.strokes([(255, 6, upper[None])], softness=0.025))
    colour *= (1 - 0.45 * shadow)[:, :, None]
    lamp = np.array(light.lamp, np.float32)
    colour *= np.sqrt(lamp * 0.8 + 0.25)
    glint = ellipse(x + 0.045 * light.direction[0] - 0.012, y + 0.07 * light.direction[1], 0.019, 0.019)
    spark = unit(window.fill(glint, softness=0.008))
    return colour + 0.9 * spark[:, :, None]


def _lids(scene: Scene, window: Canvas, side: int, upper: Points, lower: Points) -> Layer:
    """Return lashes, lid crease and the wet rim as one dark, unclassed layer."""
    female = not scene.person.male
    made_up = female and scene.moment.lipstick
    outer = upper + np.array([0.0, -0.006])
    crease = upper[3:23] + np.array([0.0, -0.062])
    tip = upper[[8, 11, 14, 17, 19, 21, 23]]
    reach = np.linspace(0.2, 1.0, len(tip))[:, None]
    lash_tip = tip + np.array([0.055 * side, -0.05]) * reach
    lashes = np.stack([tip, (tip + lash_tip) / 2 + np.array([0.006 * side, 0.006]), lash_tip], axis=1)
    strength = 250 if made_up else 205
    groups = [
        (75, 2, crease[None]),
        (strength, 4 if made_up else 3, outer[None]),
        (140 if made_up else 95, 1, lower[3:][None]),
    ]
    if female:
        groups.append((200, 1, lashes))
    ink = unit(window.strokes(groups, softness=0.009))
    if made_up:
        lid_shadow = window.strokes([(110, 7, (upper[4:24] + np.array([0.0, -0.05]))[None])], softness=0.03)
        ink = np.maximum(ink, 0.6 * unit(lid_shadow))
    dark = scene.skin * scene.skin * np.array([0.22, 0.15, 0.14], np.float32)
    return Layer(window, 0.95 * ink, dark)


def brows(scene: Scene) -> list[Layer]:
    """Paint the eyebrows as hairs over a soft shadow."""
    person = scene.person
    layers = []
    for side, class_name in ((1, "l_brow"), (-1, "r_brow")):
        y = person.brow_height + side * person.asymmetry - 0.02 * max(0.0, scene.moment.smile)
        arch = 0.05 if person.male else 0.075
        heights = [y + 0.012, y - 0.45 * arch, y - arch, y + 0.035]
        spine = curve([0.17, 0.40, 0.66, 0.91], heights, 24) * np.array([side, 1.0])
        taper = np.interp(np.linspace(0, 1, 24), [0, 0.12, 0.55, 1], [0.6, 1.0, 0.85, 0.12])
        half = 0.066 * person.brow_weight * taper
        thick = np.stack([np.zeros(24), half], axis=-1)
        outline = np.concatenate([spine - thick, (spine + thick)[::-1]])
        window = scene.canvas.around(outline, 0.06)
        extent = window.fill(outline, softness=0.016)
        count = int(70 * person.brow_weight)
        along = scene.rng.uniform(0, 22, count)
        index = along.astype(np.int64)
        root = spine[index] + thick[index] * scene.rng.uniform(-0.9, 1.0, count)[:, None]
        lean = np.interp(along, [0, 8, 22], [0.25, 0.8, 1.1])
        rise = -0.085 * (1.15 - lean) * scene.rng.uniform(0.6, 1.2, count)
        tip = root + np.stack([side * 0.085 * lean, rise], axis=-1)
        hairs = unit(window.strokes([(255, 1, np.stack([root, tip], axis=1))], softness=0.007))
        ink = np.minimum(1, 0.74 * unit(extent) + 0.3 * hairs * unit(extent))
        tone = np.array((0.36, 0.34, 0.33) if person.hair == "gray" else person.hair_colour, np.float32)
        tone = np.minimum(tone * 0.62, scene.skin * 0.55)
        layers.append(Layer(window, ink, tone, class_name, extent))
    return layers
