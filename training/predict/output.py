"""The rows that prediction writes: one per face, and one per photo without a face."""

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import UserError
from common.files import replacing
from common.images import Refused
from common.manifest import PREDICTION_COLUMNS
from training.predict.predictor import Face

FORMATS: Final = (".csv", ".json", ".parquet")


def path_text(path: Path) -> str:
    """A path as text; bytes that are not UTF-8 become hexadecimal escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def face_rows(photo: Path, faces: Sequence[Face]) -> list[dict[str, Any]]:
    """A row per face of a photo."""
    rows = []
    for number, face in enumerate(faces, 1):
        left, top, right, bottom = face.box
        row = {"photo": path_text(photo), "face": number, "reason": None, "detail": face.detail}
        row |= {"left": left, "top": top, "right": right, "bottom": bottom, "score": face.score}
        rows.append({**row, "present": face.present, **face.probabilities})
    return rows


def refused_row(photo: Path, refused: Refused, attributes: Sequence[str]) -> dict[str, Any]:
    """The row of a photo without a face: all but its path and the reason is null."""
    empty = dict.fromkeys([*PREDICTION_COLUMNS, *attributes])
    return {**empty, "photo": path_text(photo), "reason": refused.reason, "detail": refused.detail}


def check_format(output: Path) -> None:
    """Check that the file name has one of the suffixes `FORMATS`.

    Raises:
        UserError: it has not.
    """
    if output.suffix.lower() not in FORMATS:
        raise UserError(f"{output}: the name must end in one of {', '.join(FORMATS)}, the format")


def write_rows(output: Path, rows: Sequence[dict[str, Any]], attributes: Sequence[str]) -> None:
    """Write rows as CSV (``present`` joined with ``;``), JSON (a list of objects) or Parquet, by the suffix.

    Raises:
        UserError: the suffix is none of `FORMATS`.
    """
    check_format(output)
    with replacing(output) as temporary:
        if output.suffix.lower() == ".parquet":
            schema = pa.schema([*PREDICTION_COLUMNS.items(), *((name, pa.float64()) for name in attributes)])
            pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), temporary, compression="zstd")
        elif output.suffix.lower() == ".json":
            text = json.dumps(list(rows), indent=1, ensure_ascii=False) + "\n"
            temporary.write_text(text, encoding="utf-8")
        else:
            with temporary.open("w", newline="", encoding="utf-8") as stream:
                table = csv.DictWriter(stream, [*PREDICTION_COLUMNS, *attributes])
                table.writeheader()
                for row in rows:
                    present = None if row["present"] is None else ";".join(row["present"])
                    table.writerow({**row, "present": present})
