"""Arrow columns of many rows in little memory."""

from collections.abc import Sequence
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

MOST_TEXT: Final = 2**31 - 1
"""Bytes of a column of strings, whose offsets have 32 bits."""


def coded(values: pa.Array | pa.ChunkedArray, index: pa.DataType = pa.int32()) -> pa.DictionaryArray:  # noqa: B008
    """A column of strings as numbers of type `index` and one copy of each string."""
    encoded = values.dictionary_encode()
    return pa.DictionaryArray.from_arrays(encoded.indices.cast(index), encoded.dictionary)


def combined(pieces: list[pa.RecordBatch], names: Sequence[str]) -> pa.Table:
    """The pieces as a table of whole columns; empties the list.

    A column at a time, so that only one is in memory twice; text of more than 2 GB becomes large_string.

    Args:
        pieces: at least one, of equal columns.
        names: of the columns.
    """
    columns = [[piece.column(index) for piece in pieces] for index in range(len(names))]
    pieces.clear()
    joined = []
    while columns:
        column = pa.chunked_array(columns.pop(0))
        if column.type == pa.string() and column.nbytes > MOST_TEXT:
            column = column.cast(pa.large_string())
        column = column.unify_dictionaries()
        joined.append(column.combine_chunks())
        del column
    return pa.table(joined, list(names))


def in_order(table: pa.Table, name: str) -> tuple[pa.Table, pa.Array | None]:
    """The rows sorted by a column without nulls, and their former positions; None if they were sorted.

    Args:
        table: of whole columns, as `combined` makes them.
        name: of the column.
    """
    values = table[name]
    if pc.all(pc.less_equal(values.slice(0, max(0, len(values) - 1)), values.slice(1))).as_py() is not False:
        return table, None
    order = pc.sort_indices(values)
    names, columns = table.column_names, list(table.columns)
    del table, values
    taken = []
    while columns:
        taken.append(columns.pop(0).take(order).combine_chunks())
    return pa.table(taken, names), order
