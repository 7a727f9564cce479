"""Photos with a numbered box around each face, and the predicted attributes in a panel beside the photo."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from common.page.fonts import font_for
from training.predict.predictor import Face

MIN_SIDE: Final = 480
"""Pixels of the shorter side below which a photo is enlarged, to be in proportion to the text beside it."""
MAX_SIDE: Final = 1600
"""Pixels of the longer side above which it is reduced."""
PANEL_WIDTH: Final = 330
FONT_SIZE: Final = 15
LINE_HEIGHT: Final = FONT_SIZE + 5
COLORS: Final = ("#ff5a36", "#2f9bff", "#34c26a", "#f0b400", "#c56cf0", "#00b8b8")


def annotate(image: NDArray[np.uint8], faces: Sequence[Face]) -> Image.Image:
    """A photo, RGB uint8 (H, W, 3), with a box per face; the panel lists the attributes that are present.

    The most probable attribute comes first.
    """
    photo = Image.fromarray(image)
    scale = max(1.0, MIN_SIDE / min(photo.size))
    scale = min(scale, MAX_SIDE / max(photo.size))
    photo = photo.resize((max(1, round(photo.width * scale)), max(1, round(photo.height * scale))))
    lines = [line for number, face in enumerate(faces, 1) for line in _lines(number, face)]
    chosen = font_for(text for text, _ in lines)
    font = ImageFont.truetype(chosen.file, FONT_SIZE)
    height = max(photo.height, (len(lines) + 1) * LINE_HEIGHT)
    canvas = Image.new("RGB", (photo.width + PANEL_WIDTH, height), "#16181d")
    canvas.paste(photo)
    draw = ImageDraw.Draw(canvas)
    for number, face in enumerate(faces, 1):
        color = COLORS[(number - 1) % len(COLORS)]
        left, top, right, bottom = (edge * scale for edge in face.box)
        right, bottom = min(right, photo.width - 1), min(bottom, photo.height - 1)
        left, top = max(left, 0), max(top, 0)
        draw.rectangle((left, top, right, bottom), outline=color, width=3)
        draw.rectangle((left, top, left + 12 + 9 * len(str(number)), top + FONT_SIZE + 6), fill=color)
        draw.text((left + 6, top + 2), str(number), fill="white", font=font)
    for row, (text, color) in enumerate(lines):
        draw.text((photo.width + 14, 8 + row * LINE_HEIGHT), chosen.shown(text), fill=color, font=font)
    return canvas


def _lines(number: int, face: Face) -> list[tuple[str, str]]:
    color = COLORS[(number - 1) % len(COLORS)]
    score = "" if face.score is None else f" (detector {face.score:.2f})"
    ranked = sorted(face.present, key=lambda name: -face.probabilities[name])
    named = [f"{name.replace('_', ' ')} {face.probabilities[name]:.2f}" for name in ranked] or [
        "no attribute"
    ]
    if face.unsure:
        named.append(f"unsure: {', '.join(name.replace('_', ' ') for name in face.unsure)}")
    return [(f"face {number}{score}", color), *((f"  {text}", "#e8e8e8") for text in named)]
