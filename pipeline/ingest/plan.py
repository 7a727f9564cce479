"""From a listing to the rows of ``source.parquet``: drop duplicates, draw splits, plan shards."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
import pyarrow as pa

from common import manifest
from common.errors import UserError
from common.layout import SPLITS, shard_name, shard_number
from common.pipeline_config import Ingest
from pipeline.ingest.content import Content
from pipeline.ingest.listing import Listing, Source

LEAST_SHARDS: Final = 32
"""Shards of a set whose shards would be larger otherwise; each is one task."""
LEAST_SHARD: Final = 16
"""Samples of a shard below which more shards gain nothing."""


def plan(
    listing: Listing,
    contents: list[Content],
    settings: Ingest,
    dataset: str,
    planned: Mapping[str, str] | None = None,
) -> pa.Table:
    """One row per source, as ``source.parquet`` holds them.

    A photo that an earlier plan has put into a shard stays in it, whatever else changes, and new photos go
    into new shards, so that finished shards remain what they are. A shard is named after the split for which
    it was planned; when labels move a photo to another split, its row says so and its shard stays.

    Args:
        listing: the sources.
        contents: their hashes, in the same order.
        settings: the section ``ingest`` of the configuration.
        dataset: its name.
        planned: the shards of an earlier plan by key.

    Raises:
        UserError: the data set's own split has a person on two sides, a label is named like
            a column of the manifests, or two files share a key.
    """
    _check_names(listing.attributes)
    sources = listing.sources
    refused = _refuse_duplicates(sources, contents)
    usable = [not reason for reason in refused]
    splits = _draw_splits(sources, contents, usable, settings)
    keys = [
        content.sha256[:16] if ok and content.sha256 else None
        for content, ok in zip(contents, usable, strict=True)
    ]
    columns = {
        "source": [source.path for source in sources],
        "key": keys,
        "shard": _plan_shards(keys, splits, settings, dataset, planned or {}),
        "split": splits,
        "identity": [source.identity for source in sources],
        "sha256": [content.sha256 for content in contents],
        "bytes": [content.size for content in contents],
        "reason": [reason[0] if reason else None for reason in refused],
        "detail": [reason[1] if reason else None for reason in refused],
        "notices": [
            _notices(source) if ok and listing.attributes else None
            for source, ok in zip(sources, usable, strict=True)
        ],
    }
    for position, name in enumerate(listing.attributes):
        columns[name] = [source.attributes and source.attributes[position] for source in sources]
    return pa.table(columns, manifest.with_attributes(manifest.SOURCE_FIELDS, listing.attributes))


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


def _refuse_duplicates(sources: list[Source], contents: list[Content]) -> list[tuple[str, str] | None]:
    first: dict[str, Source] = {}
    keys: set[str] = set()
    refused: list[tuple[str, str] | None] = []
    for source, content in zip(sources, contents, strict=True):
        reason = content.refused
        if not reason:
            digest = content.sha256 or ""
            kept = first.setdefault(digest, source)
            if kept.path != source.path:
                pairs = zip(kept.attributes or (), source.attributes or (), strict=False)
                contrary = any({one, other} == {0, 1} for one, other in pairs)
                reason = (
                    ("contrary-labels", f"same bytes as {kept.path}, but labels that contradict its own")
                    if contrary
                    else ("duplicate", f"same bytes as {kept.path}")
                )
            elif digest[:16] in keys:
                raise UserError(
                    f"two different files share the key {digest[:16]}; ingest them as two data sets"
                )
            keys.add(digest[:16])
        refused.append(reason)
    return refused


def _draw_splits(
    sources: list[Source], contents: list[Content], usable: list[bool], settings: Ingest
) -> list[str | None]:
    """The split of every usable source; no person is in two.

    Where the data set has splits of its own, they are used. Otherwise each labelled source is drawn, by
    person, or by content where the person is unknown, so that its split depends on no other source. All
    others are ``unlabelled``, unless their person is in a split.
    """
    official = any(source.split for source in sources)
    splits = list[str | None]()
    for source, content in zip(sources, contents, strict=True):
        drawn = _draw_split(source.identity or content.sha256 or "", settings) if source.labelled else None
        splits.append(source.split if official else drawn)
    people = _splits_by_person(zip(sources, splits, usable, strict=True))
    return [
        (split or people.get(source.identity or "", "unlabelled")) if ok else None
        for source, split, ok in zip(sources, splits, usable, strict=True)
    ]


def _splits_by_person(sources: Iterable[tuple[Source, str | None, bool]]) -> dict[str, str]:
    first: dict[str, tuple[str, str]] = {}
    for source, its_split, usable in sources:
        if source.identity and its_split and usable:
            split, path = first.setdefault(source.identity, (its_split, source.path))
            if split != its_split:
                raise UserError(
                    f"{source.identity} is in two splits, {path} in {split} and {source.path} in "
                    f"{its_split}; fix the split, or leave it out to have one drawn by identity"
                )
    return {identity: split for identity, (split, _) in first.items()}


def _draw_split(name: str, settings: Ingest) -> str:
    digest = hashlib.sha256(f"{settings.seed}:{name}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < settings.test_fraction:
        return "test"
    return "val" if position < settings.test_fraction + settings.val_fraction else "train"


def _plan_shards(
    keys: list[str | None],
    splits: list[str | None],
    settings: Ingest,
    dataset: str,
    planned: Mapping[str, str],
) -> list[str | None]:
    shards = [planned.get(key) if key else None for key in keys]
    names = set(planned.values())
    size = _shard_size(sum(split is not None for split in splits), settings)
    for split in SPLITS:
        new = [index for index, drawn in enumerate(splits) if drawn == split and shards[index] is None]
        order = np.random.default_rng(settings.seed).permutation(len(new)).tolist()
        numbers = [shard_number(name) for name in names if name.startswith(f"{dataset}/{split}-")]
        first = max(numbers, default=-1) + 1
        for position, member in enumerate(order):
            shards[new[member]] = shard_name(dataset, split, first + position // size)
    return shards


def _shard_size(samples: int, settings: Ingest) -> int:
    """Samples per new shard: so few that a small set has tasks for all workers."""
    return min(settings.shard_size, max(LEAST_SHARD, -(-samples // LEAST_SHARDS)))


def _notices(source: Source) -> str | None:
    if source.attributes is None:
        return "no-label"
    return "unknown-label" if None in source.attributes else None
