"""The ingest stage: list an input, hash its sources, plan its shards."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

import pyarrow as pa

from common import manifest
from common.config import Config
from common.input_files import Tree
from common.layout import SPLITS, Layout, mark_output
from common.pipeline_config import Ingest
from common.retry import retried
from common.storage import Address, address, is_file, is_local, store_errors
from pipeline.ingest.adapters import open_tree, read_tree
from pipeline.ingest.earlier import planned_before, refuse_losses
from pipeline.ingest.hash_records import records_folder
from pipeline.ingest.hash_task import LOCAL_THREADS, REMOTE_THREADS, read_content
from pipeline.ingest.hashing import Photos, hash_sources
from pipeline.ingest.listing import Listing
from pipeline.ingest.plan import plan


def ingest(config: Config, layout: Layout, prune: bool = False, photos: Photos | None = None) -> Address:
    """List, hash and plan; write ``source.parquet`` and return its path.

    Every source gets a row. A usable one gets a key (the first 16 hex digits of its
    content's SHA-256), a split and a shard; any other a reason and a detail. An earlier plan in the same
    place is added to; `prune` allows that photos of finished shards leave it. `photos` stand in for those of
    the input. What was hashed before and has not changed since is not read
    (`pipeline.ingest.hash_records`).

    Raises:
        UserError: no input, malformed label files, sources that the store does not hand out, or photos of
            finished shards that the input does not have any more.
        OSError: the input cannot be listed.
    """
    path = address(config.data.input)
    minutes = config.stream.retry_minutes
    tree, listing = retried(lambda: _list(path, config.ingest), minutes, "ingest")
    root = tree.root
    photos = photos or _photos(tree, config)
    retried(lambda: mark_output(layout.manifests), minutes, "ingest")
    folder = records_folder(layout.manifests, root)
    contents = hash_sources(listing.sources, photos, folder, config.ingest.max_pixels, minutes)
    earlier = retried(lambda: _earlier_plan(layout, config.data.name), minutes, "ingest")
    alike = earlier is not None and earlier.get("plan") == _version(config.ingest)
    before = (lambda: retried(lambda: planned_before(layout), minutes, "ingest")) if alike else None
    planned = plan(listing, contents, config.ingest, config.data.name, before)
    if earlier is not None and not prune:
        refuse_losses(
            layout, config.data.name, str(root), contents.keys[planned.usable], planned.usable_paths()
        )
    metadata = {
        "dataset": config.data.name,
        "root": str(root),
        "aligned": str(listing.aligned).lower(),
        "plan": _version(config.ingest),
    }
    summary = _Summary()
    manifest.write_pieces(layout.source, summary.counted(planned.tables()), listing.attributes, metadata, {})
    print("\n".join([*summary.lines(), *(f"  {remark}" for remark in listing.remarks)]))
    return layout.source


def _version(settings: Ingest) -> str:
    """The settings that an earlier plan must have been made with, or else all shards are planned anew."""
    return json.dumps({"seed": settings.seed, "shard_size": settings.shard_size})


def _earlier_plan(layout: Layout, dataset: str) -> Mapping[str, str] | None:
    """The metadata of the plan that lies in the output, if it is of the same data set."""
    if not is_file(layout.source):
        return None
    metadata = manifest.read(layout.source, []).metadata
    return metadata if metadata.get("dataset") == dataset else None


def _photos(tree: Tree, config: Config) -> Photos:
    """Those below the root of a tree; workers of a joined cluster know it by its absolute path."""
    root = tree.root.absolute() if isinstance(tree.root, Path) else tree.root
    threads = LOCAL_THREADS if is_local(root) else REMOTE_THREADS
    read = partial(read_content, root, config.ingest.max_pixels)
    return Photos(tree.stamps, read, threads, config.cluster)


def _list(path: Address, settings: Ingest) -> tuple[Tree, Listing]:
    labels = None if settings.labels is None else address(settings.labels)
    with store_errors(path):
        tree = open_tree(path)
        listing = read_tree(tree, settings.format, labels)
    return tree, Listing(
        listing.sources.first(settings.limit), listing.attributes, listing.aligned, listing.remarks
    )


class _Summary:
    """What a plan keeps and refuses, counted while it is written."""

    def __init__(self) -> None:
        self._sources = 0
        self._counts = {name: Counter[str]() for name in ("split", "reason", "notices")}

    def counted(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """The same tables."""
        for table in tables:
            self._sources += table.num_rows
            for name, counts in self._counts.items():
                counts.update(manifest.counts(table[name]))
            yield table

    def lines(self) -> list[str]:
        """A line in total, and one for each reason and notice."""
        splits, reasons, notices = self._counts.values()
        kept = ", ".join(f"{splits[split]:,} {split}" for split in SPLITS if splits[split]) or "none usable"
        lines = [f"ingest: {self._sources:,} sources, {reasons.total():,} refused; {kept}"]
        lines += [f"  refused: {reason:<31}{count:>10,}" for reason, count in sorted(reasons.items())]
        lines += [
            f"  kept with a notice: {notice:<20}{count:>10,}" for notice, count in sorted(notices.items())
        ]
        return lines
