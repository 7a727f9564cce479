"""The tables that prediction writes: a row per face or refused photo, or per sample of shards."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from common.errors import UserError
from common.files import replacing
from common.manifest import PREDICTION_COLUMNS
from common.photo import Refused
from training.predict.predictor import Face

FORMATS: Final = (".csv", ".json", ".parquet")


def path_text(path: Path) -> str:
    """A path as text; bytes that are not UTF-8 become hexadecimal escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def face_rows(photo: Path, faces: Sequence[Face]) -> list[dict[str, Any]]:
    """A row per face of a photo, with the columns `PREDICTION_COLUMNS` and the probability per attribute.

    Probabilities have six significant digits; what is ``present`` was decided by all of them.
    """
    rows = []
    for number, face in enumerate(faces, 1):
        left, top, right, bottom = face.box
        row = {"photo": path_text(photo), "face": number, "reason": None, "detail": face.detail}
        row |= {"left": left, "top": top, "right": right, "bottom": bottom, "score": face.score}
        rounded = {name: float(f"{value:.6g}") for name, value in face.probabilities.items()}
        rows.append({**row, "present": face.present, "unsure": face.unsure, **rounded})
    return rows


def refused_row(photo: Path, refused: Refused) -> dict[str, Any]:
    """The row of a photo without a face: all but its path and the reason is null."""
    empty = dict.fromkeys(PREDICTION_COLUMNS)
    return {**empty, "photo": path_text(photo), "reason": refused.reason, "detail": refused.detail}


def face_table(rows: Sequence[dict[str, Any]], attributes: Sequence[str]) -> pa.Table:
    """Rows of faces and refused photos as a table; what a row lacks is null."""
    schema = pa.schema([*PREDICTION_COLUMNS.items(), *((name, pa.float64()) for name in attributes)])
    return pa.Table.from_pylist(list(rows), schema=schema)


def check_format(output: Path) -> None:
    """Check that the file name has one of the suffixes `FORMATS`.

    Raises:
        UserError: it has not.
    """
    if output.suffix.lower() not in FORMATS:
        raise UserError(f"{output}: the name must end in one of {', '.join(FORMATS)}, the format")


def write_table(output: Path, table: pa.Table) -> None:
    """Write CSV (lists joined with ``;``), JSON (a list of objects) or Parquet, by the suffix.

    Raises:
        UserError: the suffix is none of `FORMATS`.
    """
    check_format(output)
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
