"""Compare the samples of one shard with the same samples of another set."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from common.cell_counts import dominant_classes, merge_cells
from common.classes import NUM_CLASSES
from common.errors import UserError
from common.shards import BrokenSample, Extent, decode_cell_counts, decode_mask, read_member
from common.storage import Address
from pipeline.compare.agreement import Agreement

OTHER: Final = " (other)"
"""Ending of the columns of the other set."""


@dataclass(frozen=True)
class CompareTask:
    """The samples of one shard of the first set that the other set has as well.

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


def compare_shard(task: CompareTask) -> Agreement:
    """The agreement over the samples of a task, with one sample in memory at a time.

    Raises:
        UserError: a member is damaged, or the two sets' masks or grids do not fit.
    """
    agreement = Agreement(task.top, task.patches)
    for row in task.rows.to_pylist():
        try:
            masks = [decode_mask(_read(task, row, "mask.png", suffix)) for suffix in ("", OTHER)]
            counts = [decode_cell_counts(_read(task, row, "parts.npy", suffix)) for suffix in ("", OTHER)]
            first, second = (_dominant(cells, task) for cells in counts)
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
        confusion = np.bincount(pair.ravel(), minlength=NUM_CLASSES**2)
        agreement.pixels += confusion.reshape(NUM_CLASSES, NUM_CLASSES)
        agreement.same_dominant += int((first == second).all(dim=-1).sum())
        agreement.shared_dominant += int((first & second).sum())
        agreement.either_dominant += int((first | second).sum())
        agreement.other_faces += row.get("jpg.crc32") != row.get(f"jpg.crc32{OTHER}")
        agreement.samples += 1
    return agreement


def _dominant(counts: NDArray[np.uint16], task: CompareTask) -> torch.Tensor:
    cells = torch.from_numpy(counts.astype(np.int64))
    return dominant_classes(merge_cells(cells, task.patches), task.top)


def _read(task: CompareTask, row: dict[str, Any], name: str, suffix: str) -> bytes:
    extent = Extent(row[f"{name}.offset{suffix}"], row[f"{name}.size{suffix}"])
    return read_member(task.second if suffix else task.first, row[f"shard{suffix}"], extent)
