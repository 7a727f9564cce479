"""What prediction writes: tables with a row per face, rows of photos that are done, annotated photos."""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from common.files import disk_errors, replacing
from common.freshness import fingerprint
from common.manifest import PREDICTION_COLUMNS
from common.page.fonts import font_for
from common.page.formats import words
from common.photo import Refused
from training.predict.predictor import Face

FORMATS: Final = (".csv", ".json", ".parquet")


def path_text(path: Path) -> str:
    """A path as text; bytes that are not UTF-8 become hexadecimal escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def face_rows(photo: Path, faces: Sequence[Face] | Refused) -> list[dict[str, Any]]:
    """A row per face of a photo, with the columns `PREDICTION_COLUMNS` and the probability per attribute.

    Probabilities have six significant digits; what is ``present`` was decided by all of them. In the row of a
    photo without a face all but its path and the reason is null.
    """
    path, rows = path_text(photo), []
    if isinstance(faces, Refused):
        empty = dict.fromkeys(PREDICTION_COLUMNS)
        return [{**empty, "photo": path, "reason": faces.reason, "detail": faces.detail}]
    for number, face in enumerate(faces, 1):
        values = (path, number, None, face.detail, *face.box, face.score, face.present, face.unsure)
        rounded = {name: float(f"{value:.6g}") for name, value in face.probabilities.items()}
        rows.append({**dict(zip(PREDICTION_COLUMNS, values, strict=True)), **rounded})
    return rows


def face_table(rows: Sequence[dict[str, Any]], attributes: Sequence[str]) -> pa.Table:
    """Rows of faces and refused photos as a table; what a row lacks is null."""
    schema = pa.schema([*PREDICTION_COLUMNS.items(), *((name, pa.float64()) for name in attributes)])
    return pa.Table.from_pylist(list(rows), schema=schema)


def write_table(output: Path, table: pa.Table) -> None:
    """Write CSV (lists joined with ``;``), JSON (a list of objects) or Parquet, by the suffix."""
    with replacing(output) as temporary:
        if output.suffix.lower() == ".parquet":
            pq.write_table(table, temporary, compression="zstd")
        elif output.suffix.lower() == ".json":
            text = json.dumps(table.to_pylist(), indent=1, ensure_ascii=False) + "\n"
            temporary.write_text(text, encoding="utf-8")
        else:
            for name in {"present", "unsure"} & set(table.column_names):
                position, joined = table.schema.get_field_index(name), pc.binary_join(table[name], ";")
                table = table.set_column(position, name, joined)
            pa_csv.write_csv(table, temporary)


class KeptRows:
    """The rows of photos that are done, in a file that an interrupted run leaves to the next one.

    A line is a JSON list: what the rows were made from, and the rows of one photo. Lines that were made from
    anything else are not used, such as those of a photo that has changed since.

    Args:
        file: of the rows; None: nothing is kept.
        made_from: what all rows depend on, JSON values.
    """

    def __init__(self, file: Path | None, made_from: dict[str, Any]) -> None:
        self._file, self._made_from = file, fingerprint(made_from)
        self._kept: dict[str, list[dict[str, Any]]] = {}
        text = file.read_text(encoding="utf-8") if file and file.is_file() else ""
        for line in text.splitlines():
            with suppress(ValueError):  # the last one may be part of a line
                made_from_then, rows = json.loads(line)
                self._kept[made_from_then] = rows
        if file and text and not text.endswith("\n"):
            self._append("\n")

    def get(self, photo: Path) -> list[dict[str, Any]] | None:
        """The rows of a photo, if they are kept and it has not changed since."""
        return self._kept.get(self._of(photo) or "")

    def add(self, photo: Path, rows: list[dict[str, Any]]) -> None:
        """Keep the rows of a photo, unless it is missing."""
        if made_from := self._of(photo):
            self._kept[made_from] = rows
            self._append(json.dumps([made_from, rows]) + "\n")

    def _of(self, photo: Path) -> str | None:
        try:
            status = photo.stat()
        except (OSError, ValueError):  # a missing file, or a name with a null byte
            return None
        return fingerprint(self._made_from, path_text(photo), status.st_size, status.st_mtime_ns)

    def _append(self, text: str) -> None:
        if self._file:
            with disk_errors(self._file), self._file.open("a", encoding="utf-8") as stream:
                stream.write(text)

    def delete(self) -> None:
        """Delete the file, as the rows are in their table."""
        if self._file:
            self._file.unlink(missing_ok=True)


# Pixels of the shorter side below which a photo is enlarged, to be in proportion to the text beside it.
MIN_SIDE: Final = 480
MAX_SIDE: Final = 1600  # Pixels of the longer side above which it is reduced
PANEL_WIDTH: Final = 330
FONT_SIZE: Final = 15
LINE_HEIGHT: Final = FONT_SIZE + 5
COLORS: Final = ("#ff5a36", "#2f9bff", "#34c26a", "#f0b400", "#c56cf0", "#00b8b8")


def annotate(image: NDArray[np.uint8], faces: Sequence[Face]) -> Image.Image:
    """A photo, RGB uint8 (H, W, 3), with a box per face; the panel lists the attributes that are present.

    The most probable attribute comes first.
    """
    photo = Image.fromarray(image)
    scale = min(max(1.0, MIN_SIDE / min(photo.size)), MAX_SIDE / max(photo.size))
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
    named = [f"{words(name)} {face.probabilities[name]:.2f}" for name in ranked] or ["no attribute"]
    if face.unsure:
        named.append(f"unsure: {', '.join(map(words, face.unsure))}")
    return [(f"face {number}{score}", color), *((f"  {text}", "#e8e8e8") for text in named)]
