"""Sources with the same bytes: the first is kept."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from common.errors import UserError
from pipeline.ingest.content import Contents
from pipeline.ingest.listing import FIELDS, Sources

Numbers = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Duplicates:
    """Sources whose bytes an earlier one has, by their numbers.

    Attributes:
        numbers: ascending.
        kept: the source that each repeats.
        contrary: whether their labels contradict each other.
    """

    numbers: Numbers
    kept: Numbers
    contrary: NDArray[np.bool_]

    def refused(self, start: int, stop: int, sources: Sources) -> dict[int, tuple[str, str]]:
        """The reasons and details of the duplicates from one number to another, by their numbers."""
        first, last = np.searchsorted(self.numbers, [start, stop]).tolist()
        paths = [source.path for source in sources.some(self.kept[first:last].tolist())]
        return {
            number: ("contrary-labels", f"same bytes as {path}, but labels that contradict its own")
            if contrary
            else ("duplicate", f"same bytes as {path}")
            for number, path, contrary in zip(
                self.numbers[first:last].tolist(), paths, self.contrary[first:last].tolist(), strict=True
            )
        }


def find_duplicates(sources: Sources, contents: Contents) -> Duplicates:
    """The duplicates among the usable sources, by sorting their keys.

    Raises:
        UserError: two files with different bytes share a key.
    """
    keys = contents.keys
    order = np.argsort(keys, kind="stable").astype(np.int32)
    order = order[contents.usable[order]]
    later = np.flatnonzero(keys[order[1:]] == keys[order[:-1]]) + 1
    starts = np.r_[True, np.diff(later) != 1][: len(later)]
    first = (later[starts] - 1)[np.cumsum(starts) - 1] if len(later) else later
    numbers, kept = order[later], order[first]
    ascending = np.argsort(numbers)
    numbers, kept = numbers[ascending], kept[ascending]
    for number, other in zip(numbers.tolist(), kept.tolist(), strict=True):
        if contents.records(number, number + 1)["sha256"] != contents.records(other, other + 1)["sha256"]:
            key = f"{keys[number]:016x}"
            raise UserError(f"two different files share the key {key}; ingest them as two data sets")
    contrary = np.zeros(len(numbers), bool)
    for column in sources.table.columns[len(FIELDS) :]:
        labels = pc.fill_null(column, -1).to_numpy()
        contrary |= (labels[numbers] >= 0) & (labels[kept] >= 0) & (labels[numbers] != labels[kept])
    return Duplicates(numbers, kept, contrary)
