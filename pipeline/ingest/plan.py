"""From a listing to the rows of ``source.parquet``: drop duplicates, draw splits, plan shards.

All of it in columns: next to the listing, planning holds some 40 bytes a source.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from common import manifest
from common.errors import UserError
from common.layout import SPLITS
from common.pipeline_config import Ingest
from pipeline.ingest.content import Contents, Numbers
from pipeline.ingest.duplicates import Duplicates, find_duplicates
from pipeline.ingest.earlier import PlannedBefore, code_of, name_of
from pipeline.ingest.listing import FIELDS, PIECE, Listing

LEAST_SHARDS: Final = 64
"""Shards of a set whose shards would be larger otherwise; each is one task."""
LEAST_SHARD: Final = 16
"""Samples of a shard below which more shards gain nothing."""

NONE: Final = -1
"""The split and the shard of a source that has none."""


@dataclass(frozen=True)
class Plan:
    """What becomes of every source.

    Attributes:
        listing: the sources.
        contents: their bytes.
        dataset: its name.
        duplicates: sources that are refused because another has their bytes.
        usable: bool, whether a source is in a shard.
        splits: int8, position in `SPLITS` or `NONE`.
        shards: int32, as `pipeline.ingest.earlier.code_of` makes them, or `NONE`.
    """

    listing: Listing
    contents: Contents
    dataset: str
    duplicates: Duplicates
    usable: NDArray[np.bool_]
    splits: Numbers
    shards: Numbers

    def tables(self) -> Iterator[pa.Table]:
        """The rows of ``source.parquet``, some at a time."""
        for start in range(0, len(self.usable), PIECE):
            yield self._table(start, min(start + PIECE, len(self.usable)))

    def usable_paths(self) -> Iterator[str]:
        """The paths of all sources that are in a shard."""
        paths = self.listing.sources.table["source"]
        for start in range(0, len(self.usable), PIECE):
            usable = pa.array(self.usable[start : start + PIECE])
            yield from paths.slice(start, PIECE).filter(usable).to_pylist()

    @cached_property
    def schema(self) -> pa.Schema:
        """Of the tables."""
        return manifest.with_attributes(manifest.SOURCE_FIELDS, self.listing.attributes)

    def _table(self, start: int, stop: int) -> pa.Table:
        listed = self.listing.sources.table.slice(start, stop - start)
        usable, labels = self.usable[start:stop].tolist(), listed.columns[len(FIELDS) :]
        sha256 = self.contents.sha256(start, stop)
        refusals = self.duplicates.refused(start, stop, self.listing.sources)
        refused = [refusals.get(number) or self.contents.refused.get(number) for number in range(start, stop)]
        columns = {
            "source": listed["source"].cast(pa.string()),
            "key": [
                digits[:16] if ok and digits else None for digits, ok in zip(sha256, usable, strict=True)
            ],
            "shard": [name_of(self.dataset, code) for code in self.shards[start:stop].tolist()],
            "split": [SPLITS[split] if split >= 0 else None for split in self.splits[start:stop].tolist()],
            "identity": listed["identity"].cast(pa.string()),
            "sha256": sha256,
            "bytes": self.contents.records(start, stop)["size"],
            "reason": [reason[0] if reason else None for reason in refused],
            "detail": [reason[1] if reason else None for reason in refused],
            "notices": self._notices(listed["annotated"].to_pylist(), usable, labels),
        }
        return pa.table({**columns, **dict(zip(self.listing.attributes, labels, strict=True))}, self.schema)

    def _notices(
        self, annotated: list[bool], usable: list[bool], labels: list[pa.ChunkedArray]
    ) -> list[str | None]:
        if not labels:
            return [None] * len(usable)
        known = np.all([column.is_valid().to_numpy() for column in labels], axis=0).tolist()
        notices = (
            None if every else "unknown-label" if some else "no-label"
            for some, every in zip(annotated, known, strict=True)
        )
        return [notice if ok else None for notice, ok in zip(notices, usable, strict=True)]


def plan(
    listing: Listing,
    contents: Contents,
    settings: Ingest,
    dataset: str,
    before: Callable[[], PlannedBefore] | None = None,
) -> Plan:
    """What becomes of every source.

    A photo that an earlier plan has put into a shard stays in it, whatever else changes, and new photos go
    into new shards, so that finished shards remain what they are. A shard is named after the split for which
    it was planned; when labels move a photo to another split, its row says so and its shard stays.

    Args:
        listing: the sources.
        contents: of the sources.
        settings: the section ``ingest`` of the configuration.
        dataset: its name.
        before: reads the shards of an earlier plan.

    Raises:
        UserError: the data set's own split has a person on two sides, a label is named like
            a column of the manifests, or two files share a key.
    """
    _check_names(listing.attributes)
    duplicates = find_duplicates(listing.sources, contents)
    usable = contents.usable.copy()
    usable[duplicates.numbers] = False
    splits = _draw_splits(listing, contents, usable, settings)
    planned = before() if before else PlannedBefore(np.empty(0, np.uint64), np.empty(0, np.int32))
    shards = planned.shards_of(contents.keys, usable)
    _plan_shards(shards, splits, settings, planned.last_numbers())
    return Plan(listing, contents, dataset, duplicates, usable, splits, shards)


def _check_names(attributes: tuple[str, ...]) -> None:
    own = {*manifest.SOURCE_FIELDS.names, *manifest.SAMPLE_FIELDS.names, *manifest.PREDICTION_COLUMNS}
    for name in attributes:
        if name in own:
            raise UserError(
                f"a label cannot be named {name!r}, the manifests or predictions use it; rename the column"
            )
        if not name.isprintable() or not name:
            raise UserError(
                f"a label cannot be named {name!r}, with a line break or the like; rename the column"
            )


def _draw_splits(
    listing: Listing, contents: Contents, usable: NDArray[np.bool_], settings: Ingest
) -> Numbers:
    """The split of every usable source; no person is in two.

    Where the data set has splits of its own, they are used. Otherwise each labelled source is drawn, by
    person, or by content where the person is unknown, so that its split depends on no other source. All
    others are ``unlabelled``, unless their person is in a split.
    """
    official = listing.sources.table["split"].combine_chunks()
    identity = listing.sources.table["identity"].combine_chunks()
    people = identity.indices.fill_null(NONE).to_numpy()
    if official.null_count < len(official):
        # A null is the last element, so that the number NONE finds it.
        of_code = np.array(
            [*(SPLITS.index(split) for split in official.dictionary.to_pylist()), NONE], np.int8
        )
        splits = of_code[official.indices.fill_null(NONE).to_numpy()]
    else:
        splits = _drawn(listing, contents, people, identity.dictionary, settings)
    splits[~usable] = NONE
    of_person = _splits_by_person(listing, splits, people, len(identity.dictionary))
    rest = usable & (splits == NONE)
    splits[rest] = of_person[people[rest]]
    return splits


def _drawn(
    listing: Listing, contents: Contents, people: Numbers, names: pa.Array, settings: Ingest
) -> NDArray[np.int8]:
    labelled = np.zeros(len(people), bool)
    for column in listing.sources.table.columns[len(FIELDS) :]:
        labelled |= column.is_valid().to_numpy()
    splits = np.full(len(people), NONE, np.int8)
    drawn = np.full(len(names) + 1, NONE, np.int8)
    known = np.unique(people[labelled & (people != NONE)])
    for start in range(0, len(known), PIECE):
        numbers = known[start : start + PIECE]
        drawn[numbers] = [_draw_split(name, settings) for name in names.take(pa.array(numbers)).to_pylist()]
    # No person has the number NONE, which is the last element.
    np.copyto(splits, drawn[people], where=labelled)
    for start in range(0, len(people), PIECE):
        rows = np.flatnonzero(labelled[start : start + PIECE] & (people[start : start + PIECE] == NONE))
        if len(rows):
            digits = contents.sha256(start, min(start + PIECE, len(people)))
            splits[start + rows] = [_draw_split(digits[row] or "", settings) for row in rows.tolist()]
    return splits


def _draw_split(name: str, settings: Ingest) -> int:
    digest = hashlib.sha256(f"{settings.seed}:{name}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < settings.test_fraction:
        return SPLITS.index("test")
    return SPLITS.index("val" if position < settings.test_fraction + settings.val_fraction else "train")


def _splits_by_person(listing: Listing, splits: Numbers, people: Numbers, count: int) -> NDArray[np.int8]:
    """The split of each person, ``unlabelled`` if there is none; the last is that of nobody.

    Raises:
        UserError: somebody is in two.
    """
    of_person = np.full(count + 1, SPLITS.index("unlabelled"), np.int8)
    rows = np.flatnonzero((splits != NONE) & (people != NONE))
    # The first source decides: of several values for one element, numpy keeps the last.
    of_person[people[rows[::-1]]] = splits[rows[::-1]]
    other = rows[splits[rows] != of_person[people[rows]]]
    if len(other):
        first = rows[people[rows] == people[other[0]]][0]
        source, its = listing.sources.some([int(first), int(other[0])])
        raise UserError(
            f"{its.identity} is in two splits, {source.path} in {SPLITS[splits[first]]} and {its.path} in "
            f"{SPLITS[splits[other[0]]]}; fix the split, or leave it out to have one drawn by identity"
        )
    return of_person


def _plan_shards(shards: Numbers, splits: Numbers, settings: Ingest, last: Sequence[int]) -> None:
    """Put the sources that have a split but no shard into new ones, after the last number of each split."""
    size = _shard_size(int(np.count_nonzero(splits != NONE)), settings)
    for split in range(len(SPLITS)):
        new = np.flatnonzero((splits == split) & (shards == NONE)).astype(np.int32)
        new = np.random.default_rng(settings.seed).permutation(new)
        shards[new] = code_of(split, last[split] + 1 + np.arange(len(new), dtype=np.int32) // size)


def _shard_size(samples: int, settings: Ingest) -> int:
    """Samples per new shard: so few that a small set has tasks for all workers."""
    return min(settings.shard_size, max(LEAST_SHARD, -(-samples // LEAST_SHARDS)))
