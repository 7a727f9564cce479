"""Sources with the same bytes: the first is kept."""

from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from common.errors import UserError
from pipeline.ingest.content import Contents, Numbers
from pipeline.ingest.listing import FIELDS, PIECE, Sources


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
    numbers, kept = _repeated(contents.keys)
    usable = contents.usable[numbers]
    numbers, kept = numbers[usable], kept[usable]
    for number, other in zip(numbers.tolist(), kept.tolist(), strict=True):
        if contents.records(number, number + 1)["sha256"] != contents.records(other, other + 1)["sha256"]:
            key = f"{contents.keys[number]:016x}"
            raise UserError(f"two different files share the key {key}; ingest them as two data sets")
    contrary = np.zeros(len(numbers), bool)
    for column in sources.table.columns[len(FIELDS) :]:
        labels = pc.fill_null(column, -1).to_numpy()
        contrary |= (labels[numbers] >= 0) & (labels[kept] >= 0) & (labels[numbers] != labels[kept])
    return Duplicates(numbers, kept, contrary)


def _repeated(keys: NDArray[np.uint64]) -> tuple[Numbers, Numbers]:
    """The numbers of keys that an earlier one equals, ascending, and of the first of each."""
    ordered = np.sort(keys)
    several = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    parts = (
        np.flatnonzero(np.isin(keys[start : start + PIECE], several)) + start
        for start in range(0, len(keys), PIECE)
    )
    numbers = np.concatenate([np.empty(0, np.int64), *parts])
    _, first, group = np.unique(keys[numbers], return_index=True, return_inverse=True)
    kept = numbers[first[group]]
    later = kept != numbers
    return numbers[later], kept[later]
