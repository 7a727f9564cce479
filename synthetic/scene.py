"""The scene that every part function reads: who, how lit, and the shape of the head."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from synthetic.geometry import Canvas, Floats, Points, curve, symmetric
from synthetic.light import Light, Surface, surface_of
from synthetic.person import Moment, Person

SKIN_TONES = np.array(
    [
        (0.960, 0.835, 0.780),
        (0.905, 0.735, 0.650),
        (0.845, 0.655, 0.545),
        (0.755, 0.560, 0.435),
        (0.600, 0.415, 0.300),
        (0.400, 0.265, 0.190),
    ]
)
"""sRGB skin colours from pale to dark, equally spaced in `Person.melanin`."""


@dataclass
class Scene:
    """One image about to be painted.

    Attributes:
        canvas: the whole drawing.
        person: who is painted.
        moment: expression, pose and accessories.
        light: how the scene is lit.
        rng: drives textures and small details; every part gets its own, so that a part that is added or
            changed leaves the others as they were.
    """

    canvas: Canvas
    person: Person
    moment: Moment
    light: Light
    rng: np.random.Generator

    @cached_property
    def skin(self) -> Floats:
        """Skin colour, float32 sRGB (3,)."""
        position = self.person.melanin * (len(SKIN_TONES) - 1)
        knots = np.arange(len(SKIN_TONES))
        tone = [float(np.interp(position, knots, SKIN_TONES[:, channel])) for channel in range(3)]
        flush = 0.035 * (self.person.redness - 0.4) * (1 - 0.6 * self.person.melanin) * (not self.person.pale)
        return np.array([tone[0] + 0.3 * flush, tone[1] - flush, tone[2] - flush], np.float32)

    @property
    def volume(self) -> float:
        """How far the hair stands off the head, 0..1; a hat presses it down."""
        return self.person.volume if self.moment.hat == "none" else 0.0

    @property
    def wave(self) -> float:
        """How wavy the hair is, 0..1; a hat presses it down."""
        return self.person.wave if self.moment.hat == "none" else 0.5 * self.person.wave

    @cached_property
    def face_half_outline(self) -> Points:
        """Right half of the face's outline from the crown to the chin, float64 (48, 2)."""
        width, jaw, chin = self.person.face_width, self.person.jaw, self.person.chin
        return curve(
            [
                0.0,
                0.52,
                0.90,
                width,
                width + 0.01,
                width - 0.05,
                width - 0.27 + 0.10 * jaw,
                0.50 + 0.14 * jaw,
                0.28 + 0.09 * jaw,
                0.12 + 0.04 * jaw,
                0.0,
            ],
            [-1.72, -1.60, -1.18, -0.50, 0.05, 0.50, 1.02, 1.44, chin - 0.10, chin - 0.02, chin],
            48,
        )

    @cached_property
    def face_outline(self) -> Points:
        """Closed outline of the face and skull, float64 (96, 2)."""
        return symmetric(self.face_half_outline)

    @cached_property
    def face_window(self) -> Canvas:
        """The window of the drawing that the face fills."""
        return self.canvas.around(self.face_outline, 0.08)

    @cached_property
    def relief(self) -> Floats:
        """Depth of the face towards the viewer over `face_window`, float32, head units.

        A rounded mask over the outline, with hills for nose, brows, cheeks, lips and chin and hollows for
        eye sockets and temples.
        """
        window, person, smile = self.face_window, self.person, max(0.0, self.moment.smile)
        half = self.face_half_outline
        width = np.maximum(np.interp(window.y, half[:, 1], half[:, 0], left=0.0, right=0.0), 0.02)
        q = np.minimum(np.multiply.outer(1 / width**2, window.x**2), 1.0).astype(np.float32)
        # Smooth curves, not straight pieces, whose kinks would show as creases.
        middle = curve(
            [-1.75, -1.5, -1.1, -0.6, 0.3, 1.1, person.chin], [0.0, 0.5, 0.8, 0.97, 1.0, 0.95, 0.55], 80
        )
        profile = np.interp(window.y, middle[:, 0], middle[:, 1])
        depth = profile[:, None].astype(np.float32) * np.sqrt(np.maximum(0, 1 - q * (0.45 + 0.55 * q)))
        nose_y = person.nose_length
        bridge = curve(
            [-0.4, -0.2, 0.0, 0.25, nose_y - 0.18, nose_y - 0.07, nose_y + 0.03, nose_y + 0.12],
            [0.0, 0.02, 0.06, 0.14, 0.23, 0.23, 0.09, 0.0],
            80,
        )
        ridge = np.interp(window.y, bridge[:, 0], bridge[:, 1], left=0.0, right=0.0)
        nose = person.nose_width
        across = np.exp(-0.5 * (window.x / (0.40 * nose)) ** 2)
        depth += np.multiply.outer(ridge.astype(np.float32), across.astype(np.float32))
        # Nose tip and wings, sockets, eyeballs, brow ridge, cheekbones, cheeks, lips, the hollow below them,
        # chin, temples, philtrum.
        for amount, hill in (
            (0.09, window.bump(0.0, nose_y - 0.11, 0.12, 0.09)),
            (0.10, window.pair(0.66 * nose, nose_y - 0.07, 0.08, 0.075)),
            (-0.13, window.pair(0.5, -0.01, 0.24, 0.14)),
            (0.05, window.pair(0.5, 0.02, 0.15, 0.08)),
            (0.07 if person.male else 0.035, window.pair(0.45, -0.27, 0.34, 0.09)),
            (0.06 + 0.10 * smile, window.pair(0.66, 0.52 - 0.06 * smile, 0.24, 0.2)),
            (-0.05, window.pair(0.62, 0.95, 0.16, 0.22)),
            (0.08, window.bump(0.0, 1.12, 0.36, 0.16)),
            (-0.035, window.bump(0.0, 1.40, 0.26, 0.07)),
            (0.09, window.bump(0.0, person.chin - 0.2, 0.24, 0.14)),
            (-0.05, window.pair(0.98, -0.45, 0.15, 0.3)),
            (-0.025, window.bump(0.0, 0.88, 0.05, 0.09)),
        ):
            depth += amount * hill
        return depth

    @cached_property
    def face_surface(self) -> Surface:
        """Normals of the face over `face_window`."""
        return surface_of(self.relief)

    def face_crop(self, window: Canvas, image: Floats) -> Floats:
        """Return the part of a `face_window` image that lies under a window inside it."""
        face = self.face_window
        row, column = window.row - face.row, window.column - face.column
        return image[row : row + window.height, column : column + window.width]
