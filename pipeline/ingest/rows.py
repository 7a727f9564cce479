"""The rows of label files: CSV, TSV, Parquet and other text, whatever program wrote them.

CSV is read in the encodings of `encoding_of`, separated by commas, semicolons, tabs or bars, with
Excel's line ``sep=;`` or without. Blanks around headings and cells are removed. `IMAGEFOLDER` is Hugging
Face's: a JSON object a line, whose keys are the columns.
"""

import codecs
import csv
import io
import json
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import UserError
from common.storage import Address

IMAGEFOLDER: Final = "metadata.jsonl"
SUFFIXES: Final = (".csv", ".tsv", ".tab", ".parquet", IMAGEFOLDER)  # Ends of the names of tables
# Windows-1252, a superset of Latin-1's letters: what is neither UTF-8 nor UTF-16 is read as this.
FALLBACK: Final = "cp1252"
_MARKS: Final = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_CHUNK: Final = 1 << 20

Row = tuple[str, list[Any]]  # Where a row stands, such as ``faces.csv, line 3``, and its cells


def read_rows(table: Address) -> Iterator[Row]:
    """The headings, in Unicode's composed form, then every row that is not blank.

    Raises:
        UserError: it cannot be read as a table.
    """
    parquet = table.suffix.lower() == ".parquet"
    try:
        encoding = "" if parquet else encoding_of(table)
        with table.open("rb") as stream:
            if table.name.lower().endswith(IMAGEFOLDER):
                rows = _imagefolder(table, stream)
            else:
                rows = _parquet(table, stream) if parquet else _csv(table, stream, encoding)
            where, headings = next(rows, (f"{table}, line 1", []))
            yield where, [unicodedata.normalize("NFC", str(name)) for name in headings]
            yield from rows
    except (csv.Error, UnicodeError, pa.ArrowException) as error:
        raise UserError(f"{table}: not a readable table: {error}") from error


def _csv(table: Address, stream: IO[bytes], encoding: str) -> Iterator[Row]:
    text = io.TextIOWrapper(stream, encoding=encoding, newline="")
    first = text.readline()
    line = 1
    if first.lower().startswith("sep=") and len(first.strip()) == len("sep=;"):
        delimiter, line = first[len("sep=")], 2
    else:
        text.seek(0)
        delimiter = max(",;\t|", key=lambda mark: len(next(csv.reader([first], delimiter=mark), [])))
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    offset = line - 1
    for cells in reader:
        cells = [cell.strip() for cell in cells]
        if any(cells):
            yield f"{table}, line {line}", cells
        line = reader.line_num + 1 + offset


def _imagefolder(table: Address, stream: IO[bytes]) -> Iterator[Row]:
    objects = []
    for number, line in enumerate(stream, 1):
        where = f"{table}, line {number}"
        try:
            cells = json.loads(line) if line.strip() else {}
        except ValueError as error:
            raise UserError(f"{where}: no JSON object ({error})") from error
        if not isinstance(cells, dict):
            raise UserError(f"{where}: no JSON object")
        if nested := [name for name, cell in cells.items() if isinstance(cell, dict | list)]:
            raise UserError(f"{where}: {nested[0]} holds several values; only words and numbers are labels")
        objects.append((where, cells))
    headings = list(dict.fromkeys(name for _, cells in objects for name in cells))
    yield f"{table}, line 1", headings
    for where, cells in objects:
        if cells:
            yield where, [cells.get(name) for name in headings]


def _parquet(table: Address, stream: IO[bytes]) -> Iterator[Row]:
    file = pq.ParquetFile(stream)
    for column in file.schema_arrow:
        if pa.types.is_nested(column.type):
            raise UserError(
                f"{table}: the column {column.name} holds {str(column.type)[:60]}, such as Hugging Face's "
                "pictures; write them to files, and their paths, words or numbers into the columns"
            )
    yield f"{table}, column names", file.schema_arrow.names
    number = 0
    for batch in file.iter_batches():
        columns = [_decoded(table, name, batch[name]) for name in batch.schema.names]
        for cells in zip(*(column.to_pylist() for column in columns), strict=True):
            number += 1
            yield f"{table}, row {number}", list(cells)


def _decoded(table: Address, name: str, column: pa.Array) -> pa.Array:
    """A column of bytes as text, and any other as it is."""
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        return column
    try:
        return column.cast(pa.large_string())
    except pa.ArrowInvalid as error:
        raise UserError(
            f"{table}: the column {name} holds bytes that are no text, such as pictures; write them to "
            "files, and their paths into a column 'path'"
        ) from error


def encoding_of(file: Address) -> str:
    """The encoding of a text file: UTF-8 or UTF-16, with or without a byte order mark, or `FALLBACK`.

    Raises:
        UserError: the file is in none of them.
    """
    with file.open("rb") as stream:
        head = stream.read(_CHUNK)
    for mark, name in _MARKS.items():
        if head.startswith(mark):
            return name
    nulls = head.count(b"\0")
    if nulls > len(head) // 4:  # ASCII in UTF-16: every other byte is zero
        return "utf-16-be" if head[0::2].count(b"\0") > nulls // 2 else "utf-16-le"
    for name in ("utf-8", FALLBACK):
        with suppress(UnicodeDecodeError), file.open("rb") as stream:
            text = io.TextIOWrapper(stream, encoding=name)
            while text.read(_CHUNK):
                pass
            return name
    raise UserError(f"{file}: not text in UTF-8, UTF-16 or Windows-1252; save it as UTF-8")


def numbered_lines(file: Address) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers from 1.

    Raises:
        UserError: the file is not text.
    """
    try:
        text = file.read_text(encoding=encoding_of(file))
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file}: not text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield number, line
