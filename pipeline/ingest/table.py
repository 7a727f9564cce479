"""Adapter for CSV and Parquet files of paths with label columns; docs/inputs.md says what they may hold.

The input is such a file, or a folder that has some, directly or one folder deeper. The column of paths has
one of the names `PATHS`, or, as pandas writes an index, none and is the first. A path is relative to the
table's folder or to the input, or names an image as `ImageIndex` finds it. FairFace's columns are known. Only
the images that the table names are read.
"""

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from common.errors import UserError
from common.input_files import FileTree, LocalFiles, Refusal, is_image, refusal
from common.storage import Address
from pipeline.ingest.labels import (
    FALSE,
    SPLIT_COLUMNS,
    RawLabel,
    read_identity,
    read_raw_label,
    read_split,
    split_in_name,
)
from pipeline.ingest.listing import Listing, Source
from pipeline.ingest.match import ImageIndex, unmatched
from pipeline.ingest.rows import FALLBACK, IMAGEFOLDER, SUFFIXES, encoding_of, read_rows

# Names of the column of paths, the first that occurs; capitals, blanks and hyphens do not matter.
PATHS: Final = (
    "path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "image_name",
    "image_id", "image_file", "img", "img_path", "img_name", "photo",
)  # fmt: skip
MISSING: Final = "label-without-image"

_AGES: Final = ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70")
_RACES: Final = (
    "White", "Black", "Indian", "East Asian", "Southeast Asian", "Middle Eastern", "Latino_Hispanic",
)  # fmt: skip
_VALUES: Final = {"gender": ("Female", "Male"), "age": _AGES, "race": _RACES}
_TEST_FLAG: Final = "service_test"
FAIRFACE_COLUMNS: Final = frozenset({*_VALUES, _TEST_FLAG})
# FairFace's label files (Karkkainen and Joo, WACV 2021) have an age group, a gender and a race per image,
# which become yes/no attributes as UTKFace's do; the flag tells which images it balanced for a test.
FAIRFACE_ATTRIBUTES: Final = (
    "Male",
    *(f"Age_{age.replace('-', '_').replace('more than 70', '70_116')}" for age in _AGES),
    *(race.replace(" ", "_") for race in _RACES),
)


@dataclass
class _Table:
    """A table with its headings."""

    file: str  # its name in messages, below the input's root the path there
    address: Address
    path: int  # position of the column of paths
    columns: dict[int, str]  # the others by position, without an index
    split: str | None  # name of that of splits


def recognised(tree: FileTree) -> bool:
    """Whether an input is a table, or a folder that has one, whatever its columns."""
    return tree.path.suffix.lower() in SUFFIXES if tree.is_file else bool(files(tree))


def read(tree: FileTree, labels: Address | None = None) -> Listing:
    """List the rows of the input's own tables, or of one named by `labels`, which lies anywhere.

    Raises:
        UserError: a table names no images, tables differ, no row has an image, or a row has the wrong
            width, a bad label or split, no path, or the path of an earlier row; the message names
            file, line and column.
    """
    named = [(labels.name, labels)] if labels else [(file, tree.root / file) for file in files(tree)]
    tables = [_open(*each) for each in named]
    if not tables:
        raise UserError(f"{tree.path} has no table; its name ends in one of {', '.join(SUFFIXES)}")
    splits = _check_alike(tree, tables)
    names = tuple(name for name in tables[0].columns.values() if name not in (tables[0].split, "identity"))
    of_fairface = FAIRFACE_COLUMNS >= set(names) >= FAIRFACE_COLUMNS - {_TEST_FLAG}
    remarks = tuple(
        f"{table.file} is not UTF-8 and was read as Windows-1252"
        for table in tables
        if not table.file.lower().endswith(".parquet") and encoding_of(table.address) == FALLBACK
    )
    return Listing(
        _sources(tree, tables, splits, None if of_fairface else names),
        FAIRFACE_ATTRIBUTES if of_fairface else names,
        False,
        remarks,
        raw=True,
        rows=lambda: (where for table in tables for where, _, _ in _rows(table)),
    )


def _sources(
    tree: FileTree, tables: list[_Table], splits: list[str | None], names: tuple[str, ...] | None
) -> Iterator[Source]:
    """A source per row of all tables, in their order; `names` are the columns of labels, None FairFace's."""
    paths, first, matched, partitions = _Paths(tree), "", False, set[str]()
    for table, split in zip(tables, splits, strict=True):
        for where, text, row in _rows(table):
            path, refused = paths.resolve(text, table.file, where)
            first = first or path
            matched = matched or refused is None or refused[0] not in (MISSING, "path-outside")
            if names is None:
                labels = _read_fairface(row, where)
            else:
                labels = tuple(read_raw_label(row[name], where, name) for name in names)
            if table.split:
                partitions.add(str(row[table.split]))
                split = read_split(row[table.split], where, table.split)
            yield Source(path, split, read_identity(row.get("identity")), labels, refused)
    if "1" in partitions and "2" not in partitions:  # CelebA's has 2 for test
        raise UserError(
            f"{tables[0].file}: the column partition has no 2, so 1 may mean val or test; write train, val "
            "and test"
        )
    if first and not matched:
        raise unmatched(tree, tables[0].file, first)


def _read_fairface(row: dict[str, Any], where: str) -> tuple[RawLabel, ...]:
    for name, values in _VALUES.items():
        if row[name] not in values:
            raise UserError(f"{where}, column {name}: {row[name]!r} is none of {', '.join(values)}")
    yes = [row["gender"] == "Male"]
    yes += [row[name] == value for name in ("age", "race") for value in _VALUES[name]]
    return tuple(1 if value else FALSE for value in yes)


def files(tree: FileTree) -> list[str]:
    """The tables of an input."""
    if tree.is_file:
        return [tree.path.name]
    return [
        file.path
        for file in tree.files
        if file.path.lower().endswith(SUFFIXES) and file.path.count("/") < 2 and not file.refused
    ]


def _open(file: str, address: Address) -> _Table:
    where, headings = next(read_rows(address))
    listed = ", ".join(name or "''" for name in headings)
    if any(is_image(name) for name in headings):
        raise UserError(f"{where}: {listed}: not column names; add a line of them, such as path,Smiling")
    keys = [re.sub(r"[\s-]+", "_", name.strip().lower()) for name in headings]
    index = bool(headings) and re.fullmatch(r"|Unnamed: \d+", headings[0])  # that pandas wrote
    path = next((keys.index(name) for name in PATHS if name in keys), 0 if index else None)
    if path is None:
        raise UserError(
            f"{where}: no column of paths among {listed or 'its columns'}; call it 'path', or leave the "
            "table out with --format folder"
        )
    columns = {
        position: key if key in (*SPLIT_COLUMNS, "identity") else name.strip()
        for position, (name, key) in enumerate(zip(headings, keys, strict=True))
        if position != path and not (position == 0 and index)
    }
    if len(set(columns.values())) != len(columns) or not all(columns.values()):
        raise UserError(f"{where}: column names were expected, each once, not {listed}")
    splits = [name for name in columns.values() if name in SPLIT_COLUMNS]
    if len(splits) > 1:
        raise UserError(f"{where}: the columns {' and '.join(splits)} are all named like splits; keep one")
    return _Table(file, address, path, columns, splits[0] if splits else None)


def _check_alike(tree: FileTree, tables: list[_Table]) -> list[str | None]:
    """The split of each table, by its name; None if there is one table or a column of splits."""
    first = tables[0]
    for other in tables[1:]:
        if set(other.columns.values()) != set(first.columns.values()):
            columns = (", ".join(table.columns.values()) or "paths alone" for table in (first, other))
            raise UserError(
                f"{tree.path} has several tables: {first.file} with {next(columns)}, {other.file} with "
                f"{next(columns)}; name the one to read as --input"
            )
    splits = [
        split_in_name(table.file.removesuffix(f"/{IMAGEFOLDER}").rpartition("/")[2]) for table in tables
    ]
    if len(tables) == 1 or first.split or not any(splits):
        return [None] * len(tables)
    if None in splits:
        nameless = tables[splits.index(None)].file
        raise UserError(f"{nameless} names no split, as other tables in {tree.path} do; rename or remove it")
    return splits


def _rows(table: _Table) -> Iterator[tuple[str, str, dict[str, Any]]]:
    rows = read_rows(table.address)
    _, headings = next(rows)
    for where, cells in rows:
        if len(cells) != len(headings):
            raise UserError(f"{where}: {len(cells)} cells for {len(headings)} columns; fix the row")
        text = cells[table.path]
        if text is None or text != text or text == "":
            raise UserError(f"{where}: the path is empty")
        yield where, str(text), {name: cells[position] for position, name in table.columns.items()}


class _Paths:
    """The source that each row of a table means."""

    def __init__(self, tree: FileTree) -> None:
        self._tree = tree
        self._root = f"{tree.root.absolute().as_posix()}/" if isinstance(tree.root, Path) else ""
        self._local = LocalFiles(tree.root) if isinstance(tree.root, Path) else None

    @cached_property
    def _images(self) -> ImageIndex:
        return ImageIndex(self._tree)

    def resolve(self, text: str, table: str, where: str) -> tuple[str, Refusal | None]:
        """The path below the input's root that a cell means, and why it must not be read, if so.

        Raises:
            UserError: the cell may mean several files.
        """
        texts = [each.removeprefix(self._root) for each in dict.fromkeys((text, text.replace("\\", "/")))]
        bases = dict.fromkeys((posixpath.dirname(table), ""))
        candidates = [posixpath.normpath(posixpath.join(base, name)) for name in texts for base in bases]
        inside = [path for path in candidates if not re.match(r"/|\.\.(/|\Z)|[A-Za-z]:/", path)]
        if not inside:
            return texts[-1], ("path-outside", "a path that leaves the input folder")
        for path in inside:
            if self._local and (mode := self._local.mode(path)) is not None:
                return path, self._local.refusal(path, mode)
        for path in inside:
            if image := self._images.find(path, where):
                return image, refusal(self._tree.root, image) if isinstance(self._tree.root, Path) else None
        return inside[-1], (MISSING, "the table has a row for it, but the file does not exist")
