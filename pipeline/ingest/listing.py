"""An adapter's listing of an input: its sources, their labels, and those that cannot be used."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from common.columns import coded, combined, in_order

OFFICIAL_SPLITS: Final = ("train", "val", "test")
"""The splits that a data set can name."""

PIECE: Final = 1 << 14
"""Rows that are Python objects at a time."""

FIELDS: Final = ("source", "split", "identity", "annotated", "reason", "detail")
"""Columns of a table of sources before the labels: those of `Source`, and whether it has labels."""


@dataclass(frozen=True, slots=True)
class Source:
    """One input as its data set describes it.

    Attributes:
        path: relative to the input folder, with forward slashes; ``shard.tar::member`` in a tar.
        split: the data set's own ``train``, ``val`` or ``test``; None if it has none.
        identity: the person in it, or None.
        attributes: 0, 1 or None (unknown) per attribute name; None if there is no label.
        refused: (reason, detail) if the adapter already knows that it cannot be used.
    """

    path: str
    split: str | None = None
    identity: str | None = None
    attributes: tuple[int | None, ...] | None = None
    refused: tuple[str, str] | None = None


class Sources:
    """Sources in columns, some 50 bytes each; iterated, they are `Source` objects.

    Attributes:
        table: `FIELDS`, then an int8 column per label, named by its number.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    @classmethod
    def of(cls, sources: Iterable[Source], labels: int) -> "Sources":
        """The sources, with so many labels each."""
        stream, pieces = iter(sources), list[pa.RecordBatch]()
        while (rows := list(islice(stream, PIECE))) or not pieces:
            columns = {
                "source": [row.path for row in rows],
                "split": [row.split for row in rows],
                "identity": [row.identity for row in rows],
                "annotated": [row.attributes is not None for row in rows],
                "reason": [row.refused and row.refused[0] for row in rows],
                "detail": [row.refused and row.refused[1] for row in rows],
            }
            values = [[row.attributes and row.attributes[number] for row in rows] for number in range(labels)]
            pieces.append(piece(columns, values))
        return cls.joined(pieces)

    @classmethod
    def joined(cls, pieces: list[pa.RecordBatch]) -> "Sources":
        """The sources of the pieces that `piece` has made; empties the list."""
        return cls(combined(pieces, pieces[0].schema.names))

    def __len__(self) -> int:
        return self.table.num_rows

    def __iter__(self) -> Iterator[Source]:
        for start in range(0, len(self), PIECE):
            yield from self.some(slice(start, start + PIECE))

    def some(self, rows: slice | list[int]) -> list[Source]:
        """Those in a slice, or with these numbers."""
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self))
            table = self.table.slice(start, stop - start)
        else:
            table = self.table.take(pa.array(rows, pa.int64()))
        columns = [column.to_pylist() for column in table.columns]
        labels = list(zip(*columns[len(FIELDS) :], strict=True)) or [()] * table.num_rows
        return [
            Source(
                path,
                split,
                identity,
                values if annotated else None,
                None if reason is None else (reason, detail),
            )
            for path, split, identity, annotated, reason, detail, values in zip(
                *columns[: len(FIELDS)], labels, strict=True
            )
        ]

    def first(self, count: int | None) -> "Sources":
        """The first so many; all if None."""
        return Sources(self.table.slice(0, count))

    def sorted(self) -> tuple["Sources", pa.Array | None]:
        """The sources by path, and their former positions; None if these were sorted."""
        table, order = in_order(self.table, "source")
        return Sources(table), order

    def with_labels(self, meaning: Callable[[pa.Array], pa.Array]) -> "Sources":
        """The same sources with other labels, a column at a time; without any, a source is not annotated."""
        table = self.table
        known = pa.nulls(len(self), pa.bool_()).fill_null(False)
        for number in range(len(FIELDS), table.num_columns):
            labels = meaning(table.column(number).combine_chunks()).cast(pa.int8())
            known = pc.or_(known, pc.is_valid(labels))
            table = table.set_column(number, table.field(number).name, labels)
        return Sources(table.set_column(FIELDS.index("annotated"), "annotated", known))


def piece(columns: dict[str, Any], labels: list[Any]) -> pa.RecordBatch:
    """Some rows of a table of sources, from lists or arrays of `FIELDS` and of each label."""
    text = {name: pa.array(columns[name], pa.string()) for name in FIELDS if name != "annotated"}
    arrays = {
        "source": text["source"],
        "split": coded(text["split"], pa.int8()),
        "identity": coded(text["identity"]),
        "annotated": pa.array(columns["annotated"], pa.bool_()),
        "reason": coded(text["reason"], pa.int8()),
        "detail": coded(text["detail"]),
    }
    named = {str(number): pa.array(values, pa.int8()) for number, values in enumerate(labels)}
    return pa.RecordBatch.from_pydict({**arrays, **named})


class Listing:
    """All inputs of a data set.

    Attributes:
        sources: sorted by path.
        attributes: names of the labels, in the data set's order.
        aligned: whether the images are aligned faces already.
        remarks: sentences about what was found and not used.
    """

    def __init__(
        self,
        sources: Sources | Iterable[Source],
        attributes: tuple[str, ...],
        aligned: bool,
        remarks: tuple[str, ...] = (),
    ) -> None:
        self.sources = sources if isinstance(sources, Sources) else Sources.of(sources, len(attributes))
        self.attributes, self.aligned, self.remarks = attributes, aligned, remarks
