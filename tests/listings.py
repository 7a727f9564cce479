"""Inputs that tests make, and their listings and plans as lists in memory."""

import io
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from common import manifest
from common.config import load
from common.layout import Layout
from common.pipeline_config import Ingest
from common.storage import Address
from common.tables import connect, insert_batches
from pipeline.ingest.adapters import store_sources
from pipeline.ingest.listing import Listing, Source, store_listing
from pipeline.ingest.plan import plan, write_plan
from pipeline.ingest.run import ingest


def read_listing(path: Address, form: str = "auto", labels: Address | None = None) -> Listing:
    """The sources of an input in their order, and what else is known of it."""
    with connect() as database:
        _, listing = store_sources(database, path, form, labels)
        columns = "source, split, identity, labels, reason, detail"
        rows = database.execute(f"SELECT {columns} FROM listed ORDER BY number").fetchall()
    sources = [
        Source(source, split, identity, labels and tuple(labels), reason and (reason, detail))
        for source, split, identity, labels, reason, detail in rows
    ]
    return replace(listing, sources=sources)


def plan_rows(
    listing: Listing, hashes: Sequence[str], settings: Ingest, name: str = "d"
) -> list[dict[str, Any]]:
    """The rows of ``source.parquet`` of sources whose bytes have these hashes."""
    with connect() as database, TemporaryDirectory() as folder:
        store_listing(database, "listed", listing)
        database.execute("CREATE TABLE earlier (key VARCHAR, shard VARCHAR)")
        database.execute(
            "CREATE TABLE contents "
            "(number BIGINT, sha256 VARCHAR, bytes BIGINT, reason VARCHAR, detail VARCHAR)"
        )
        contents = {"number": range(len(hashes)), "sha256": hashes, "bytes": [1] * len(hashes)}
        insert_batches(database, "contents", [pa.RecordBatch.from_pydict(contents)])
        plan(database, listing.attributes, settings, name)
        write_plan(database, Path(folder, "source.parquet"), listing.attributes, {})
        return manifest.read(Path(folder, "source.parquet")).rows()


def picture(width: int = 48, height: int = 40, seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3)).astype(np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(seed: int = 0) -> bytes:
    return encoded(picture(seed=seed), "png")


def fill(root: Path, names: list[str]) -> Path:
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(photo(seed))
    return root


def by_path(root: Address, form: str = "auto") -> dict[str, Source]:
    return {source.path: source for source in read_listing(root, form).sources}


def labels(root: Address) -> dict[str, dict[str, int | None] | None]:
    listing = read_listing(root)
    return {
        source.path: None
        if source.attributes is None
        else dict(zip(listing.attributes, source.attributes, strict=True))
        for source in listing.sources
    }


def planned(place: Address | str, output: Path, *more: str) -> list[dict[str, object]]:
    ingest(load(settings=[f"data.input={place}", "data.name=d", *more]), Layout.at(output))
    return manifest.read(Layout.at(output).source).rows()


def tar(members: Iterable[tuple[str, str | bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members:
            data = content.encode() if isinstance(content, str) else content
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    path.write_bytes(tar(members.items()))
    return path
