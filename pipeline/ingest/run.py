"""The ingest stage: list an input, hash its sources, plan its shards."""

import json
from collections import Counter
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from common import manifest
from common.config import Config
from common.errors import UserError
from common.layout import SPLITS, Layout
from common.pipeline_config import Ingest
from common.retry import retried
from common.storage import Address, address, is_file, store_errors
from pipeline.ingest.adapters import read_listing
from pipeline.ingest.content import hash_sources
from pipeline.ingest.files import folder_of
from pipeline.ingest.listing import Listing
from pipeline.ingest.plan import plan


def ingest(config: Config, layout: Layout, prune: bool = False) -> Address:
    """List, hash and plan; write ``source.parquet`` and return its path.

    Every source gets a row. A usable one gets a key (the first 16 hex digits of its
    content's SHA-256), a split and a shard; any other a reason and a detail. An earlier plan in the same
    place is added to; `prune` allows that photos of finished shards leave it.

    Raises:
        UserError: no input, malformed label files, sources that the store does not hand out, or photos of
            finished shards that the input does not have any more.
        OSError: the input cannot be listed.
    """
    path = address(config.data.input)
    minutes = config.cluster.retry_minutes
    listing = retried(lambda: _list(path, config.ingest), minutes, "ingest")
    root = retried(lambda: folder_of(path), minutes, "ingest")
    contents = hash_sources(root, listing.sources, config.ingest.max_pixels, minutes)
    earlier = _earlier_plan(layout, config.data.name)
    table = plan(listing, contents, config.ingest, config.data.name, _planned(earlier, config.ingest))
    if earlier is not None and not prune:
        _refuse_losses(earlier, table, layout)
    manifest.write_table(
        layout.source,
        table,
        listing.attributes,
        {
            "dataset": config.data.name,
            "root": str(root),
            "aligned": str(listing.aligned).lower(),
            "plan": _version(config.ingest),
        },
    )
    print("\n".join([_summary(table), *(f"  {remark}" for remark in listing.remarks)]))
    return layout.source


def _version(settings: Ingest) -> str:
    """The settings that an earlier plan must have been made with, or else all shards are planned anew."""
    return json.dumps({"seed": settings.seed, "shard_size": settings.shard_size})


def _earlier_plan(layout: Layout, dataset: str) -> manifest.Manifest | None:
    """The plan that lies in the output, if it is of the same data set."""
    if not is_file(layout.source):
        return None
    source = manifest.read(layout.source)
    return source if source.metadata.get("dataset") == dataset else None


def _planned(earlier: manifest.Manifest | None, settings: Ingest) -> dict[str, str]:
    """The shards by key of an earlier plan, if shards would be planned alike now."""
    if earlier is None or earlier.metadata.get("plan") != _version(settings):
        return {}
    usable = earlier.table.select(["key", "shard"]).drop_null()
    return dict(zip(usable["key"].to_pylist(), usable["shard"].to_pylist(), strict=True))


def _refuse_losses(earlier: manifest.Manifest, table: pa.Table, layout: Layout) -> None:
    """Refuse a plan without photos of which there are finished shards.

    Raises:
        UserError: there are such photos; says how many.
    """
    old = earlier.table.filter(pc.is_valid(earlier.table["key"]))
    usable = table.filter(pc.is_valid(table["key"]))
    kept = pc.or_(
        pc.is_in(old["key"], value_set=usable["key"].combine_chunks()),
        pc.is_in(old["source"], value_set=usable["source"].combine_chunks()),
    )
    lost = old.filter(pc.invert(kept))
    folders = [folder / earlier.metadata["dataset"] for folder in (layout.shards, layout.aligned)]
    if lost.num_rows and any(any(folder.glob("*.tar")) for folder in folders):
        raise UserError(
            f"{lost.num_rows:,} of {old.num_rows:,} photos of the finished shards in {layout.shards} are not "
            f"in the input any more, such as {lost['source'][0]}; --prune deletes their faces, another "
            "--output keeps them"
        )


def _list(path: Address, settings: Ingest) -> Listing:
    labels = None if settings.labels is None else address(settings.labels)
    with store_errors(path):
        listing = read_listing(path, settings.format, labels)
    return replace(listing, sources=listing.sources[: settings.limit])


def _summary(table: pa.Table) -> str:
    splits = manifest.counts(table["split"])
    reasons = manifest.counts(table["reason"])
    notices = Counter(" ".join(table["notices"].drop_null().to_pylist()).split())
    by_split = ", ".join(f"{splits[split]:,} {split}" for split in SPLITS if splits[split])
    lines = [f"ingest: {table.num_rows:,} sources, {reasons.total():,} refused; {by_split or 'none usable'}"]
    lines += [f"  refused: {reason:<31}{count:>10,}" for reason, count in sorted(reasons.items())]
    lines += [f"  kept with a notice: {notice:<20}{count:>10,}" for notice, count in sorted(notices.items())]
    return "\n".join(lines)
