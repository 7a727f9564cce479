"""Read the masks and parts of two sets side by side on the cluster, key by key."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from common import manifest
from common.cell_counts import dominant_classes, merge_cells
from common.classes import NUM_CLASSES
from common.config import Config
from common.errors import UserError
from common.layout import Layout
from common.progress import progress
from common.shards import BrokenSample, Extent, decode_cell_counts, decode_mask, read_member
from common.storage import Address
from pipeline.compare.agreement import Agreement
from pipeline.runner.cluster import read_bounded

MEMBERS: Final = ("mask.png", "parts.npy")
COLUMNS: Final = ("key", "shard", *(f"{name}.{what}" for name in MEMBERS for what in ("offset", "size")))
OTHER: Final = " (other)"


@dataclass(frozen=True)
class CompareTask:
    """The samples of one shard of the first set that the other has, too.

    Attributes:
        first, second: folders of the two sets' shards.
        rows: columns of both manifests by key; those of the other set end in `OTHER`.
        top, patches: see `Agreement`.
    """

    first: Address
    second: Address
    rows: pa.Table
    top: int
    patches: int


def compare(config: Config, first: Layout, second: Layout, patches: int) -> Agreement:
    """The agreement of two sets.

    Args:
        config: which cluster, and how many parts count as dominant (``pretrain.top_parts``).
        first, second: the sets.
        patches: patches per side in which dominant parts are compared; must divide the grid.

    Raises:
        UserError: a manifest is missing, a member is damaged, or the sets' masks or grids do not fit.
    """
    agreement = Agreement(config.pretrain.top_parts, patches)
    tables = [manifest.read(layout.require_samples()).table for layout in (first, second)]
    joined = _joined(*tables)
    agreement.only_first = tables[0].num_rows - joined.num_rows
    agreement.only_second = tables[1].num_rows - joined.num_rows
    tasks = [
        CompareTask(first.shards, second.shards, rows, agreement.top, patches)
        for _, rows in manifest.rows_by_shard(joined)
    ]
    bar = progress("compare", joined.num_rows, "samples")
    for task, part in read_bounded(config.cluster, compare_shard, tasks):
        agreement.merge(part)
        bar.update(task.rows.num_rows)
    bar.close()
    return agreement


def _joined(first: pa.Table, second: pa.Table) -> pa.Table:
    optional = [
        name for name in ("jpg.crc32",) if {name} <= set(first.column_names) & set(second.column_names)
    ]
    wanted = [*COLUMNS, *optional]
    return first.select(wanted).join(
        second.select(wanted), keys="key", join_type="inner", right_suffix=OTHER, use_threads=False
    )


def compare_shard(task: CompareTask) -> Agreement:
    """The agreement over one task's samples; one sample in memory at a time.

    Raises:
        UserError: a member is damaged, or the two sets' masks or grids do not fit.
    """
    part = Agreement(task.top, task.patches)
    for row in task.rows.to_pylist():
        try:
            masks = [decode_mask(_member(task, row, "mask.png", suffix)) for suffix in ("", OTHER)]
            parts = [decode_cell_counts(_member(task, row, "parts.npy", suffix)) for suffix in ("", OTHER)]
            tops = [dominant_classes(merge_cells(counts, task.patches), task.top) for counts in parts]
        except (BrokenSample, OSError, ValueError) as error:
            raise UserError(
                f"{row['shard']}: {row['key']}: {error}; see `python -m pipeline.verify`"
            ) from error
        if masks[0].shape != masks[1].shape:
            raise UserError(
                f"{row['key']}: masks of {masks[0].shape} and {masks[1].shape} pixels cannot be compared; "
                "the sets were aligned to different sizes"
            )
        pair = masks[0].astype(np.int64) * NUM_CLASSES + masks[1]
        part.pixels += np.bincount(pair.ravel(), minlength=NUM_CLASSES**2).reshape(NUM_CLASSES, NUM_CLASSES)
        part.same_parts += int((tops[0] == tops[1]).all(axis=-1).sum())
        part.shared_parts += int((tops[0] & tops[1]).sum())
        part.either_parts += int((tops[0] | tops[1]).sum())
        part.other_faces += row.get("jpg.crc32") != row.get(f"jpg.crc32{OTHER}")
        part.samples += 1
    return part


def _member(task: CompareTask, row: dict[str, object], name: str, suffix: str) -> bytes:
    folder = task.second if suffix else task.first
    extent = Extent(int(str(row[f"{name}.offset{suffix}"])), int(str(row[f"{name}.size{suffix}"])))
    return read_member(folder, str(row[f"shard{suffix}"]), extent)
