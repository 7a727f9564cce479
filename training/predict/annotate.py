"""Photos with boxes around their faces, and what was predicted of them beside the picture."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from training.predict.predictor import Face

LEAST_SIDE: Final = 480
"""Pixels of the shorter side below which a picture is enlarged, to be in proportion to the text beside it."""
MOST_SIDE: Final = 1600
"""Pixels of the longer side above which it is shrunk."""
PANEL: Final = 330
TEXT: Final = 15
COLORS: Final = ("#ff5a36", "#2f9bff", "#34c26a", "#f0b400", "#c56cf0", "#00b8b8")


def annotate(picture: NDArray[np.uint8], faces: Sequence[Face]) -> Image.Image:
    """A picture, RGB uint8 (H, W, 3), with a numbered box per face and a list of its attributes at the right.

    Listed are the attributes that count as present, the most probable first.
    """
    photo = Image.fromarray(picture)
    scale = max(1.0, LEAST_SIDE / min(photo.size))
    scale = min(scale, MOST_SIDE / max(photo.size))
    photo = photo.resize((max(1, round(photo.width * scale)), max(1, round(photo.height * scale))))
    font = ImageFont.load_default(TEXT)
    lines = [line for number, face in enumerate(faces, 1) for line in _lines(number, face)]
    height = max(photo.height, (len(lines) + 1) * (TEXT + 5))
    canvas = Image.new("RGB", (photo.width + PANEL, height), "#16181d")
    canvas.paste(photo)
    draw = ImageDraw.Draw(canvas)
    for number, face in enumerate(faces, 1):
        color = COLORS[(number - 1) % len(COLORS)]
        left, top, right, bottom = (edge * scale for edge in face.box)
        right, bottom = min(right, photo.width - 1), min(bottom, photo.height - 1)
        left, top = max(left, 0), max(top, 0)
        draw.rectangle((left, top, right, bottom), outline=color, width=3)
        draw.rectangle((left, top, left + 12 + 9 * len(str(number)), top + TEXT + 6), fill=color)
        draw.text((left + 6, top + 2), str(number), fill="white", font=font)
    for position, (text, color) in enumerate(lines):
        draw.text((photo.width + 14, 8 + position * (TEXT + 5)), text, fill=color, font=font)
    return canvas


def _lines(number: int, face: Face) -> list[tuple[str, str]]:
    color = COLORS[(number - 1) % len(COLORS)]
    score = "" if face.score is None else f" (detector {face.score:.2f})"
    ranked = sorted(face.present, key=lambda name: -face.probabilities[name])
    named = [f"{name.replace('_', ' ')} {face.probabilities[name]:.2f}" for name in ranked] or [
        "no attribute"
    ]
    return [(f"face {number}{score}", color), *((f"  {text}", "#e8e8e8") for text in named)]
