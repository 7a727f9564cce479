"""From a listing to ``source.parquet``: hash, drop duplicates, draw splits, plan shards."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from contract import manifest
from contract.config import Config
from contract.errors import UserError
from contract.layout import SPLITS, Layout, shard_name
from contract.progress import progress
from contract.storage import Address
from pipeline.ingest.listing import Source, read_listing

HASH_THREADS = 8


@dataclass(frozen=True)
class _Content:
    sha256: str | None
    size: int
    refused: tuple[str, str] | None


def ingest(config: Config, layout: Layout) -> Address:
    """List, hash and plan; write ``source.parquet`` and return its path.

    Every source gets a row. A usable one gets a key (the first 16 hex digits of its
    content's SHA-256), a split and a shard; any other a reason and a detail.

    Raises:
        UserError: no input, or malformed label files.
    """
    root = Path(config.data.input)
    listing = read_listing(root)
    sources = listing.sources[: config.ingest.limit]
    contents = _hash_all(root, sources)
    rows = [_row(source, content) for source, content in zip(sources, contents, strict=True)]
    _refuse_duplicates(rows)
    _draw_splits(rows, labelled=bool(listing.attributes), config=config)
    _plan_shards(rows, config)
    for row, source in zip(rows, sources, strict=True):
        row.update(zip(listing.attributes, source.attributes or (), strict=False))
    manifest.write(
        layout.source,
        manifest.SOURCE_FIELDS,
        rows,
        listing.attributes,
        {"dataset": config.data.name, "root": root.as_posix(), "aligned": str(listing.aligned).lower()},
    )
    usable = [row for row in rows if row["reason"] is None]
    splits = Counter(row["split"] for row in usable)
    said = ", ".join(f"{splits[split]:,} {split}" for split in SPLITS if splits[split])
    print(f"ingest: {len(rows):,} sources, {len(rows) - len(usable):,} refused; {said or 'none usable'}")
    return layout.source


def _row(source: Source, content: _Content) -> dict[str, Any]:
    reason, detail = content.refused or (None, None)
    return {
        "source": source.path,
        "key": None if reason else (content.sha256 or "")[:16],
        "shard": None,
        "split": source.split,
        "identity": source.identity,
        "sha256": content.sha256,
        "bytes": content.size,
        "reason": reason,
        "detail": detail,
    }


def _hash_all(root: Path, sources: list[Source]) -> list[_Content]:
    bar = progress("ingest", len(sources), "files")
    contents = []
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        for content in pool.map(lambda source: _hash(root, source), sources):
            contents.append(content)
            bar.update(1)
    bar.close()
    return contents


def _hash(root: Path, source: Source) -> _Content:
    if source.refused:
        return _Content(None, 0, source.refused)
    try:
        with (root / source.path).open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            size = stream.tell()
    except OSError as error:
        return _Content(None, 0, ("unreadable", error.strerror or str(error)))
    return _Content(digest, size, None if size else ("empty", "the file has no bytes"))


def _refuse_duplicates(rows: list[dict[str, Any]]) -> None:
    first: dict[str, str] = {}
    for row in rows:
        if row["reason"]:
            continue
        kept = first.setdefault(row["sha256"], row["source"])
        if kept != row["source"]:
            row.update(key=None, reason="duplicate", detail=f"same bytes as {kept}")
    keys = Counter(row["key"] for row in rows if row["key"])
    clash = next((key for key, count in keys.items() if count > 1), None)
    if clash:
        raise UserError(f"two different files share the key {clash}; ingest them as two data sets")


def _draw_splits(rows: list[dict[str, Any]], labelled: bool, config: Config) -> None:
    own = any(row["split"] for row in rows)
    for row in rows:
        if row["split"] is None and not row["reason"]:
            whole = labelled and not own
            row["split"] = _drawn(row["identity"] or row["sha256"], config) if whole else "unlabelled"


def _drawn(name: str, config: Config) -> str:
    digest = hashlib.sha256(f"{config.ingest.seed}:{name}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < config.ingest.test_fraction:
        return "test"
    return "val" if position < config.ingest.test_fraction + config.ingest.val_fraction else "train"


def _plan_shards(rows: Iterable[dict[str, Any]], config: Config) -> None:
    for split in SPLITS:
        members = [row for row in rows if row["split"] == split and not row["reason"]]
        order = np.random.default_rng(config.ingest.seed).permutation(len(members))
        for position, index in enumerate(order):
            number = position // config.ingest.shard_size
            members[index]["shard"] = shard_name(config.data.name, split, number)
