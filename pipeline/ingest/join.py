"""Join a table of labels to the photos of a folder."""

from bisect import bisect_left
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from common.errors import UserError
from common.input_files import Tree
from common.storage import Address
from pipeline.ingest import table
from pipeline.ingest.listing import FIELDS, PIECE, Listing, Sources, piece


def join_labels(listing: Listing, labels: Address, tree: Tree) -> Listing:
    """The listing with the labels, splits and identities that a table has for its sources.

    A source without a row stays as it is; a row without a source is refused as ``label-without-image``.

    Args:
        listing: the sources; labels that they have already stay, as further attributes.
        labels: a table as `pipeline.ingest.table` reads it, whose paths are relative to the input.
        tree: the input.

    Raises:
        UserError: the table is malformed, has a label that the data set has already, or names no source.
    """
    rows = table.read(tree, labels)
    twice = sorted(set(rows.attributes) & set(listing.attributes))
    if twice:
        raise UserError(f"{labels}: the data set has labels named {twice[0]} already; rename the column")
    missing = ("label-without-image", f"{labels.name} has a row for it, but {tree.root} has no such file")
    own = str(labels).removeprefix(f"{tree.root}/")
    sources, _ = Sources.joined(list(_joined(listing, rows, own, missing))).sorted()
    remarks = (*listing.remarks, *rows.remarks)
    return Listing(sources, (*listing.attributes, *rows.attributes), listing.aligned, remarks)


def _joined(listing: Listing, rows: Listing, own: str, missing: tuple[str, str]) -> Iterator[pa.RecordBatch]:
    """The sources but the file `own`, some at a time, and after them the rows without a source."""
    paths = rows.sources.table["source"]
    used = np.zeros(len(paths), bool)
    for start in range(0, len(listing.sources), PIECE):
        some = listing.sources.table.slice(start, PIECE)
        some = some.filter(pc.not_equal(some["source"], own))
        if not some.num_rows:
            continue
        # Both are sorted, so that the rows of these sources are a slice.
        first = bisect_left(range(len(paths)), some["source"][0].as_py(), key=lambda row: paths[row].as_py())
        last = bisect_left(range(len(paths)), some["source"][-1].as_py(), key=lambda row: paths[row].as_py())
        sought = paths.slice(first, last + 1 - first).combine_chunks().cast(pa.string())
        positions = pc.index_in(some["source"].combine_chunks().cast(pa.string()), value_set=sought)
        used[first + positions.drop_null().to_numpy()] = True
        row = rows.sources.table.slice(first).take(positions)
        columns = _columns(some)
        for name in ("split", "identity"):
            columns[name] = pc.coalesce(row[name].cast(pa.string()), columns[name])
        yield _annotated(columns, some, row)
    unused = rows.sources.table.filter(pa.array(~used))
    for start in range(0, unused.num_rows, PIECE):
        row = unused.slice(start, PIECE)
        columns = _columns(row)
        for name, value in zip(("reason", "detail"), missing, strict=True):
            columns[name] = columns[name].fill_null(value)
        none = listing.sources.table.slice(0, 0).take(pa.nulls(row.num_rows, pa.int64()))
        yield _annotated(columns, none, row)


def _columns(sources: pa.Table) -> dict[str, Any]:
    return {name: sources[name].cast(pa.string()).combine_chunks() for name in FIELDS if name != "annotated"}


def _annotated(columns: dict[str, Any], sources: pa.Table, rows: pa.Table) -> pa.RecordBatch:
    """A piece of the joined listing with the labels of both."""
    labels = [column.combine_chunks() for side in (sources, rows) for column in side.columns[len(FIELDS) :]]
    known = np.zeros(len(columns["source"]), bool)
    for column in labels:
        known |= column.is_valid().to_numpy(zero_copy_only=False)
    return piece({**columns, "annotated": known}, labels)
