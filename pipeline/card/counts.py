"""The counts of a set, by queries over its manifests: stages, reasons, splits, checks, labels."""

import json
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import numpy as np

from common import manifest, tables
from common.layout import SPLITS, Layout
from common.tables import Database, quoted
from pipeline.verify.manifests import IN_TWO_SPLITS, REPEATED, UNACCOUNTED


def count_all(layout: Layout) -> SimpleNamespace:
    """The counts that the page shows, by queries over the manifests of a set.

    Returns:
        ``dataset``, its name; ``sources`` and ``samples``, rows of the manifests; ``listed`` and ``later``,
        what was refused while the input was listed, and while it was aligned or parsed, by reason, most
        first; ``notices`` of samples, likewise. ``splits``: of each that has samples, ``name``, ``samples``,
        ``shards``, ``identities`` (None if nobody's is known) and ``confidence``, the mean over the samples.
        ``checks``: (what must hold, how often it does not). ``numerics``: what the parser computed on and in;
        several if the set was continued on another machine. ``stages``: what is in ``stages.json``.
        ``attributes``: the names of A attributes; ``yes`` and ``known``, float64 (A,), samples with a 1, and
        with a 0 or a 1; ``phi``, float64 (A, A), correlation of each two over the samples that have both, NaN
        where one of them is constant; ``labelled``, samples with at least one known attribute.

    Raises:
        UserError: there are no finished shards.
    """
    described = manifest.read(layout.require_samples(), [])
    stages = {}
    with suppress(OSError, ValueError):
        stages = json.loads((layout.manifests / "stages.json").read_bytes())
    with tables.connect() as database:
        for name in ("source", "samples", "quarantine"):
            tables.add_parquet(database, name, getattr(layout, name))
        early = "SELECT source, reason FROM source WHERE reason IS NOT NULL"
        checks = (
            ("every source became a sample or is in the quarantine", UNACCOUNTED),
            ("no key occurs twice", REPEATED.format("key", "samples")),
            ("no photo is in two splits", IN_TWO_SPLITS.format("source")),
            ("no identity is in two splits", IN_TWO_SPLITS.format("identity")),
        )
        splits = database.sql(
            "SELECT split AS name, count(*) AS samples, count(DISTINCT shard) AS shards, "
            "nullif(count(DISTINCT identity), 0) AS identities, coalesce(favg(confidence), 0) AS confidence "
            f"FROM samples WHERE split IN {SPLITS} GROUP BY split ORDER BY list_position({[*SPLITS]}, split)"
        )
        return SimpleNamespace(
            dataset=described.metadata["dataset"],
            sources=len(database.table("source")),
            samples=len(database.table("samples")),
            listed=_by_value(database, f"SELECT reason FROM ({early})"),
            later=_by_value(database, f"SELECT reason FROM quarantine ANTI JOIN ({early}) USING (source)"),
            notices=_by_value(database, "SELECT unnest(string_split(notices, ' ')) FROM samples"),
            splits=splits.to_arrow_table().to_pylist(),
            checks=[(promise, len(database.sql(query))) for promise, query in checks],
            numerics=described.metadata.get(manifest.NUMERICS, "").split("\n"),
            stages=stages,
            attributes=described.attributes,
            **_labels(database, described.attributes),
        )


def _by_value(database: Database, query: str) -> dict[str, int]:
    """How often a query of one column yields each value, most first; nulls are left out."""
    rows = database.execute(
        f"SELECT value, count(*) FROM ({query}) AS result(value) WHERE value IS NOT NULL "
        "GROUP BY value ORDER BY count(*) DESC, value"
    )
    return dict(rows.fetchall())


def _labels(database: Database, names: tuple[str, ...]) -> dict[str, Any]:
    both, first, pairs = (np.zeros((len(names), len(names))) for _ in range(3))
    labelled = 0
    query = f"SELECT {', '.join(f'coalesce({quoted(name)}, -1)' for name in names)} FROM samples"
    for batch in tables.batches(database, query) if names else ():
        values = np.stack([np.asarray(column) for column in batch.columns], axis=1)
        known, yes = (values >= 0).astype(np.float64), (values == 1).astype(np.float64)
        labelled += int(known.any(axis=1).sum())
        # Sums of zeros and ones below 2^53 are exact as float64, where matrix products are quick.
        both += known.T @ known
        first += yes.T @ known
        pairs += yes.T @ yes
    # Pearson's correlation of two binary variables, from counts.
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = first * (both - first)
        phi = (both * pairs - first * first.T) / np.sqrt(spread * spread.T)
    return {"yes": first.diagonal(), "known": both.diagonal(), "phi": phi, "labelled": labelled}
