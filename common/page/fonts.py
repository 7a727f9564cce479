"""Fonts for text that is drawn into images: names of labels may be in any script."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from matplotlib import get_data_path
from matplotlib.font_manager import findSystemFonts
from matplotlib.ft2font import FT2Font


@dataclass(frozen=True)
class Font:
    """A font file and the characters that it has."""

    file: str
    characters: frozenset[int]

    def shown(self, text: str) -> str:
        """The text with escapes in hexadecimal for characters that would be boxes."""
        return "".join(c if ord(c) in self.characters or c == "\n" else ascii(c)[1:-1] for c in text)


def font_for(texts: Iterable[str]) -> Font:
    """The font that has most characters of `texts`: DejaVu Sans if it has all, else perhaps the system's."""
    return _font_with(frozenset(map(ord, "".join(texts))) - {ord("\n")})


@cache
def _font_with(wanted: frozenset[int]) -> Font:
    font = _read(str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")))
    for file in () if wanted <= font.characters else sorted(findSystemFonts()):
        try:
            other = _read(file)
        except (OSError, RuntimeError):  # a format that FreeType does not read
            continue
        if len(wanted & other.characters) > len(wanted & font.characters):
            font = other
    return font


@cache
def _read(file: str) -> Font:
    return Font(file, frozenset(FT2Font(file).get_charmap()))
