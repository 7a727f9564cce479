"""Compare two sets, shard by shard on the cluster."""

from typing import Final

import pyarrow as pa

from common import manifest
from common.layout import Layout
from common.pipeline_config import Cluster
from common.progress import progress
from pipeline.compare.agreement import Agreement
from pipeline.compare.shard import OTHER, CompareTask, compare_shard
from pipeline.runner.cluster import read_bounded

MEMBERS: Final = ("mask.png", "parts.npy")
COLUMNS: Final = ("key", "shard", *(f"{name}.{what}" for name in MEMBERS for what in ("offset", "size")))
CHECKSUM: Final = "jpg.crc32"
"""Tells whether both sets have the same faces; older sets have no such column."""


def compare(cluster: Cluster, first: Layout, second: Layout, patches: int, top: int) -> Agreement:
    """The agreement of two sets.

    Args:
        cluster: where the shards are read.
        first, second: the sets.
        patches: patches per side in which dominant classes are compared; must divide the grid.
        top: how many classes of a patch count as dominant (v).

    Raises:
        UserError: a manifest is missing, a member is damaged, or the sets' masks or grids do not fit.
    """
    agreement = Agreement(top, patches)
    tables = [manifest.read(layout.require_samples()).table for layout in (first, second)]
    joined = _join(*tables)
    agreement.only_first = tables[0].num_rows - joined.num_rows
    agreement.only_second = tables[1].num_rows - joined.num_rows
    tasks = [
        CompareTask(first.shards, second.shards, rows, top, patches)
        for _, rows in manifest.rows_by_shard(joined)
    ]
    bar = progress("compare", joined.num_rows, "samples")
    for task, of_shard in read_bounded(cluster, compare_shard, tasks, len(tasks)):
        agreement.merge(of_shard)
        bar.update(task.rows.num_rows)
    bar.close()
    return agreement


def _join(first: pa.Table, second: pa.Table) -> pa.Table:
    """The rows of both tables by key; the columns of the second end in `OTHER`."""
    columns = list(COLUMNS)
    if CHECKSUM in first.column_names and CHECKSUM in second.column_names:
        columns.append(CHECKSUM)
    return first.select(columns).join(
        second.select(columns), keys="key", join_type="inner", right_suffix=OTHER, use_threads=False
    )
