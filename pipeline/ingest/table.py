"""Adapter for a CSV or Parquet file of paths with label columns.

The input is the file itself, or a folder with exactly one such file directly in it. Columns:
``path`` (relative to the file's folder, forward slashes), optional ``split`` (train, val, test or
empty) and ``identity`` (empty: unknown); every other column is a label. CSV is UTF-8 with commas
and a header. Labels are 1 or true (yes), 0 or false (no), empty or NaN (unknown); if -1 occurs in
any label of the file, it is in CelebA's notation instead: 1 yes, -1 no, 0 unknown.
Only the files that the table names are read.
"""

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import UserError
from common.storage import Address, is_file
from pipeline.ingest.files import Refusal, folder_of, refusal
from pipeline.ingest.labels import Label, Spelling, interpret, read_spelling
from pipeline.ingest.listing import OFFICIAL_SPLITS, Listing, Source

SUFFIXES: Final = (".csv", ".parquet")
PATH, SPLIT, IDENTITY = "path", "split", "identity"

Row = tuple[str, list[Any]]
"""Where a row stands, such as ``faces.csv, line 3``, and its cells."""


def recognised(path: Address) -> bool:
    """Whether `path` is a table, or a folder with one table that has a ``path`` column."""
    if is_file(path):
        return path.suffix.lower() in SUFFIXES
    tables = _tables(path)
    if len(tables) != 1:
        return False
    try:
        return PATH in next(_rows(tables[0]))[1]
    except (UserError, StopIteration):
        return False


def read(path: Address, root: Address | None = None) -> Listing:
    """List the rows of a table.

    Args:
        path: the table, or a folder with exactly one.
        root: the folder that its paths are relative to; its own if None.

    Raises:
        UserError: there is no single table, or a row has the wrong width, a bad label or split,
            no path, or the path of an earlier row; the message names file and line.
    """
    tables = [path] if is_file(path) else _tables(path)
    if len(tables) != 1:
        raise UserError(f"{path} holds {len(tables)} CSV or Parquet files; name the one to read as --input")
    rows = _rows(tables[0])
    where, header = next(rows, (f"{tables[0]}, line 1", []))
    if PATH not in header or len(set(header)) != len(header) or not all(header):
        raise UserError(f"{where}: column names were expected, each once, {PATH!r} among them")
    names = tuple(name for name in header if name not in (PATH, SPLIT, IDENTITY))
    root = root or folder_of(tables[0])
    seen: dict[str, str] = {}
    sources, spellings = [], list[tuple[Spelling, ...] | None]()
    for where, cells in rows:
        if len(cells) != len(header):
            raise UserError(f"{where}: {len(cells)} cells for {len(header)} columns; fix the row")
        row = dict(zip(header, cells, strict=True))
        source = _path(row, where)
        if source in seen:
            raise UserError(f"{where}: a second row for {source}, after {seen[source]}; delete one")
        seen[source] = where
        spellings.append(tuple(read_spelling(row[name], where) for name in names))
        sources.append((source, _split(row, where), _text(row.get(IDENTITY)), _refused(root, source)))
    labels = [_known_labels(row) for row in interpret(spellings)]
    listed = [
        Source(source, split, identity, attributes, refused)
        for (source, split, identity, refused), attributes in zip(sources, labels, strict=True)
    ]
    return Listing(sorted(listed, key=lambda source: source.path), names, aligned=False)


def _tables(folder: Address) -> list[Address]:
    return [entry for entry in folder.iterdir() if entry.suffix.lower() in SUFFIXES and entry.is_file()]


def _rows(table: Address) -> Iterator[Row]:
    """The header, then every row that is not blank."""
    try:
        with table.open("rb") as stream:
            yield from _parquet(table, stream) if table.suffix.lower() == ".parquet" else _csv(table, stream)
    except (csv.Error, UnicodeDecodeError, pa.ArrowException) as error:
        raise UserError(f"{table}: not a readable table: {error}") from error


def _csv(table: Address, stream: Any) -> Iterator[Row]:
    reader = csv.reader(io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""), strict=True)
    line = 1
    for cells in reader:
        if cells:
            yield f"{table}, line {line}", cells
        line = reader.line_num + 1


def _parquet(table: Address, stream: Any) -> Iterator[Row]:
    file = pq.ParquetFile(stream)
    yield f"{table}, column names", file.schema_arrow.names
    number = 0
    for batch in file.iter_batches():
        for cells in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            number += 1
            yield f"{table}, row {number}", list(cells)


def _path(row: dict[str, Any], where: str) -> str:
    text = _text(row[PATH])
    if text is None:
        raise UserError(f"{where}: the path is empty")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    return "/".join(["", *parts] if text.startswith("/") else parts)


def _split(row: dict[str, Any], where: str) -> str | None:
    split = _text(row.get(SPLIT))
    if split is not None and split not in OFFICIAL_SPLITS:
        raise UserError(f"{where}: the split {split!r} is none of {', '.join(OFFICIAL_SPLITS)} or empty")
    return split


def _text(value: Any) -> str | None:
    return None if value is None or value != value or value == "" else str(value)


def _known_labels(labels: tuple[Label, ...] | None) -> tuple[Label, ...] | None:
    """The labels if at least one is known; otherwise the row has none."""
    return labels if labels and any(label is not None for label in labels) else None


def _refused(root: Address, path: str) -> Refusal | None:
    if path.startswith("/") or ".." in path.split("/"):
        return "path-outside", "a path that leaves the folder of the table"
    if not isinstance(root, Path):
        return None
    if not os.path.lexists(root / path):
        return "label-without-image", "the table has a row for it, but the file does not exist"
    return refusal(root, path)
