"""The ingest stage: list an input, hash its sources, plan its shards."""

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from common import manifest
from common.config import Config
from common.input_files import FileTree
from common.layout import Layout, mark_output
from common.pipeline_config import Ingest
from common.retry import retried
from common.storage import Address, address, is_file, is_local, store_errors
from common.tables import Database, add_parquet, connect
from pipeline.ingest.adapters import store_sources
from pipeline.ingest.hashing import Photos, hash_sources, read_content
from pipeline.ingest.listing import Listing
from pipeline.ingest.plan import plan, refuse_losses, summary, write_plan
from pipeline.runner.finished_shards import FinishedShards
from pipeline.runner.shard_record import CHANGED


def ingest(config: Config, layout: Layout, prune: bool = False, photos: Photos | None = None) -> Address:
    """List, hash and plan; write ``source.parquet`` and return its path.

    Every source gets a row. A usable one gets a key (the first 16 hex digits of its content's SHA-256), a
    split and a shard; any other a reason and a detail. An earlier plan in the same place is added to; `prune`
    allows that photos of finished shards leave it. `photos` stand in for those of the input. What was hashed
    before and has not changed since is not read (`pipeline.ingest.hashing`).

    Raises:
        UserError: no input, malformed label files, sources that the store does not hand out, or photos of
            finished shards that the input does not have any more.
        OSError: the input cannot be listed.
    """
    path, dataset = address(config.data.input), config.data.name
    retry = partial(retried, minutes=config.stream.retry_minutes, stage="ingest")
    version = json.dumps({"seed": config.ingest.seed, "shard_size": config.ingest.shard_size})
    with connect() as database:
        tree, listing = retry(lambda: _list(database, path, config.ingest))
        root = str(tree.root)
        retry(lambda: mark_output(layout.manifests))
        photos = photos or _photos(tree, config)
        folders = ((layout.aligned / dataset, "align"), (layout.shards / dataset, "parse"))
        finished = retry(lambda: [FinishedShards(each, layout, stage).shards for each, stage in folders])
        rows = [row for shards in finished for shard in shards.values() for row in shard.quarantined]
        doubted = [row["source"] for row in rows if row["reason"] == CHANGED]
        # The records of files below a root lie beside the manifests of the output.
        name = hashlib.sha256(str(tree.root.absolute()).encode()).hexdigest()[:16]
        folder = (layout.manifests / "records-ingest" / name).absolute()
        minutes = config.stream.retry_minutes
        hash_sources(database, photos, folder, config.ingest.max_pixels, minutes, doubted)
        earlier = retry(lambda: _earlier_plan(database, layout, dataset, version))
        plan(database, listing.attributes, config.ingest, dataset)
        if earlier and not prune:
            shards = [f"{dataset}/{name}" for name in {*finished[0], *finished[1]}]
            refused = [row["source"] for row in rows]
            refuse_losses(database, (shards, refused), layout.shards, root, earlier["root"])
        aligned = str(listing.aligned).lower()
        metadata = {"dataset": dataset, "root": root, "aligned": aligned, "plan": version}
        sources = retry(lambda: write_plan(database, layout.source, listing.attributes, metadata))
        print("\n".join([*summary(database, sources), *(f"  {remark}" for remark in listing.remarks)]))
    return layout.source


def _earlier_plan(database: Database, layout: Layout, dataset: str, version: str) -> Mapping[str, str]:
    """The metadata of the plan that lies in the output, if it is of the same data set.

    Its rows become the view ``earlier_sources``, and its shards ``earlier``, unless it was made with other
    settings: then all shards are planned anew.
    """
    metadata = manifest.read(layout.source, []).metadata if is_file(layout.source) else {}
    database.execute("CREATE OR REPLACE TABLE earlier (key VARCHAR, shard VARCHAR)")
    if metadata.get("dataset") != dataset:
        return {}
    add_parquet(database, "earlier_sources", layout.source)
    if metadata.get("plan") == version:
        database.execute("INSERT INTO earlier SELECT key, shard FROM earlier_sources WHERE key IS NOT NULL")
    return metadata


def _photos(tree: FileTree, config: Config) -> Photos:
    """Those below the root of a tree; workers of a joined cluster know it by its absolute path."""
    root = tree.root.absolute() if isinstance(tree.root, Path) else tree.root
    threads = 8 if is_local(root) else 32  # which read 533 a second from a store, at 60 ms each
    read = partial(read_content, root, config.ingest.max_pixels)
    return Photos(tree.stamps, read, threads, config.cluster)


def _list(database: Database, path: Address, settings: Ingest) -> tuple[FileTree, Listing]:
    labels = None if settings.labels is None else address(settings.labels)
    with store_errors(path):
        listed = store_sources(database, path, settings.format, labels)
    if settings.limit is not None:
        database.execute("DELETE FROM listed WHERE number >= ?", [settings.limit])
    return listed
