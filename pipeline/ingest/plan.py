"""From a listing to ``source.parquet``: hash, drop duplicates, draw splits, plan shards."""

import hashlib
import io
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pyarrow as pa

from common import manifest
from common.config import Config
from common.errors import UserError
from common.layout import SPLITS, Layout, shard_name
from common.progress import progress
from common.storage import Address, address
from pipeline.ingest.adapters import read_listing
from pipeline.ingest.files import folder_of, remote_errors
from pipeline.ingest.listing import Listing, Source
from pipeline.source import open_source

HASH_THREADS: Final = 8
HASH_WINDOW: Final = 1024
"""Sources that are given to the threads at a time."""

BYTES_PER_PIXEL: Final = 8
"""No picture needs more, 16-bit RGBA without compression: a larger file is refused unread."""


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of a source: their SHA-256 and number, or (reason, detail) why there are none."""

    sha256: str | None
    size: int
    refused: tuple[str, str] | None = None


def ingest(config: Config, layout: Layout) -> Address:
    """List, hash and plan; write ``source.parquet`` and return its path.

    Every source gets a row. A usable one gets a key (the first 16 hex digits of its
    content's SHA-256), a split and a shard; any other a reason and a detail.

    Raises:
        UserError: no input, malformed label files, or a remote file system that does not answer.
    """
    place = address(config.data.input)
    with remote_errors(place):
        listing = read_listing(place, config.ingest.format)
        listing = replace(listing, sources=listing.sources[: config.ingest.limit])
        root = folder_of(place)
        contents = hash_sources(root, listing.sources, config)
    table = plan(listing, contents, config)
    manifest.write_table(
        layout.source,
        table,
        listing.attributes,
        {"dataset": config.data.name, "root": str(root), "aligned": str(listing.aligned).lower()},
    )
    print(_summary(table))
    return layout.source


def plan(listing: Listing, contents: list[Content], config: Config) -> pa.Table:
    """One row per source, as ``source.parquet`` has them.

    Raises:
        UserError: the data set's own split has a person on two sides, a label is named like
            a column of the manifests, or two files share a key.
    """
    _check_names(listing.attributes)
    sources = listing.sources
    refused = _refuse_duplicates(sources, contents)
    usable = [not reason for reason in refused]
    splits = _draw_splits(sources, contents, usable, bool(listing.attributes), config)
    columns = {
        "source": [source.path for source in sources],
        "key": [
            content.sha256[:16] if ok and content.sha256 else None
            for content, ok in zip(contents, usable, strict=True)
        ],
        "shard": _plan_shards(splits, config),
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


def hash_sources(root: Address, sources: list[Source], config: Config) -> list[Content]:
    """Hash every source that is not refused yet, in order, with bounded memory."""
    bar = progress("ingest", len(sources), "files")
    most = BYTES_PER_PIXEL * config.ingest.max_pixels
    contents: list[Content] = []
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        # Windows, since the pool holds a task for everything that it is given at once.
        for start in range(0, len(sources), HASH_WINDOW):
            window = sources[start : start + HASH_WINDOW]
            contents.extend(pool.map(lambda source: _hash(root, source, most), window))
            bar.update(len(window))
    bar.close()
    return contents


def _hash(root: Address, source: Source, most: int) -> Content:
    if source.refused:
        return Content(None, 0, source.refused)
    try:
        with open_source(root, source.path) as stream:
            size = stream.seek(0, io.SEEK_END)
            if size > most:
                return Content(None, size, ("too-large", f"{size:,} bytes, more than {most:,}"))
            stream.seek(0)
            digest = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
    except FileNotFoundError:
        reason = "unreadable" if source.attributes is None else "label-without-image"
        return Content(None, 0, (reason, "there is no such file"))
    except OSError as error:
        return Content(None, 0, ("unreadable", error.strerror or str(error)))
    return Content(digest, size, None if size else ("empty", "the file has no bytes"))


def _check_names(attributes: tuple[str, ...]) -> None:
    taken = {*manifest.SOURCE_FIELDS.names, *manifest.SAMPLE_FIELDS.names} & set(attributes)
    if taken:
        raise UserError(
            f"a label cannot be named {sorted(taken)[0]!r}, the manifests use it; rename the column"
        )


def _refuse_duplicates(sources: list[Source], contents: list[Content]) -> list[tuple[str, str] | None]:
    first: dict[str, str] = {}
    keys: set[str] = set()
    refused: list[tuple[str, str] | None] = []
    for source, content in zip(sources, contents, strict=True):
        reason = content.refused
        if not reason:
            digest = content.sha256 or ""
            kept = first.setdefault(digest, source.path)
            if kept != source.path:
                reason = ("duplicate", f"same bytes as {kept}")
            elif digest[:16] in keys:
                raise UserError(
                    f"two different files share the key {digest[:16]}; ingest them as two data sets"
                )
            keys.add(digest[:16])
        refused.append(reason)
    return refused


def _draw_splits(
    sources: list[Source], contents: list[Content], usable: list[bool], labelled: bool, config: Config
) -> list[str | None]:
    """The split of every usable source: its own, its person's, or drawn; nobody is in two.

    A data set with a split of its own is taken at its word: what it does not name is
    ``unlabelled``, unless the person is in a split already. Without one, and with labels,
    all are drawn by person, or by content where nobody is named.
    """
    of_person = _own_splits(source for source, ok in zip(sources, usable, strict=True) if ok)
    own = any(source.split for source in sources)
    splits: list[str | None] = []
    for source, content, ok in zip(sources, contents, usable, strict=True):
        if not ok:
            splits.append(None)
        elif own or not labelled:
            splits.append(source.split or of_person.get(source.identity or "", "unlabelled"))
        else:
            splits.append(_drawn(source.identity or content.sha256 or "", config))
    return splits


def _own_splits(sources: Iterator[Source]) -> dict[str, str]:
    found: dict[str, tuple[str, str]] = {}
    for source in sources:
        if source.identity and source.split:
            split, path = found.setdefault(source.identity, (source.split, source.path))
            if split != source.split:
                raise UserError(
                    f"{source.identity} is in two splits, {path} in {split} and {source.path} in "
                    f"{source.split}; mend the split, or leave it out to have one drawn by identity"
                )
    return {identity: split for identity, (split, _) in found.items()}


def _drawn(name: str, config: Config) -> str:
    digest = hashlib.sha256(f"{config.ingest.seed}:{name}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < config.ingest.test_fraction:
        return "test"
    return "val" if position < config.ingest.test_fraction + config.ingest.val_fraction else "train"


def _plan_shards(splits: list[str | None], config: Config) -> list[str | None]:
    shards: list[str | None] = [None] * len(splits)
    for split in SPLITS:
        members = [index for index, found in enumerate(splits) if found == split]
        order = np.random.default_rng(config.ingest.seed).permutation(len(members)).tolist()
        for position, member in enumerate(order):
            number = position // config.ingest.shard_size
            shards[members[member]] = shard_name(config.data.name, split, number)
    return shards


def _notices(source: Source) -> str | None:
    if source.attributes is None:
        return "no-label"
    return "unknown-label" if None in source.attributes else None


def _summary(table: pa.Table) -> str:
    splits = Counter(table["split"].drop_null().to_pylist())
    reasons = Counter(table["reason"].drop_null().to_pylist())
    notices = Counter(" ".join(table["notices"].drop_null().to_pylist()).split())
    said = ", ".join(f"{splits[split]:,} {split}" for split in SPLITS if splits[split])
    lines = [f"ingest: {table.num_rows:,} sources, {reasons.total():,} refused; {said or 'none usable'}"]
    lines += [f"  refused: {reason:<20}{count:>10,}" for reason, count in sorted(reasons.items())]
    lines += [f"  kept, but said: {notice:<13}{count:>10,}" for notice, count in sorted(notices.items())]
    return "\n".join(lines)
