"""How far the masks of two sets of the same faces agree, counted shard by shard on the cluster."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from tabulate import tabulate

from common import tables
from common.cell_targets import dominant_classes, merge_cells
from common.classes import CLASSES, NUM_CLASSES
from common.errors import UserError
from common.layout import Layout
from common.pipeline_config import Cluster
from common.progress import progress
from common.shards import BrokenSample, decode_cell_counts, decode_mask, extent_of, read_member
from common.storage import Address
from pipeline.runner.cluster import read_bounded

PAIRS: Final = """
CREATE TABLE pairs AS
WITH a AS (SELECT {columns} FROM first_set), b AS (SELECT {columns} FROM second_set)
SELECT key, a.shard AS shard, a, b, a."jpg.crc32" <> b."jpg.crc32" AS other_face
FROM a JOIN b USING (key) ORDER BY a.shard, a."mask.png.offset"
"""
"""The samples that both sets have, with the columns of either set as a structure."""


@dataclass(frozen=True)
class CompareTask:
    """The samples of one shard of the first set that the other set has as well.

    Attributes:
        roots: folders of the two sets' shards.
        rows: of the table ``pairs``.
        patches, top: see `compare`.
    """

    roots: tuple[Address, Address]
    rows: pa.Table
    patches: int
    top: int


def compare(cluster: Cluster, first: Layout, second: Layout, patches: int, top: int) -> dict[str, Any]:
    """The agreement of two sets, as JSON-able values; null where there is nothing to compare.

    Args:
        cluster: where the shards are read.
        first, second: the sets.
        patches: patches per side in which dominant classes are compared; must divide the grid.
        top: how many classes of a patch count as dominant (v).

    Raises:
        UserError: a manifest is missing, a member is damaged, or the sets' masks or grids do not fit.
    """
    names = (f"{name}.{what}" for name in ("mask.png", "parts.npy") for what in ("offset", "size"))
    columns = ", ".join(map(tables.quoted, ("key", "shard", "jpg.crc32", *names)))
    counts: Counter[str] = Counter()
    pixels = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)
    with tables.connect() as database:
        tables.add_parquet(database, "first_set", first.require_samples())
        tables.add_parquet(database, "second_set", second.require_samples())
        database.execute(PAIRS.format(columns=columns))
        sizes = [len(database.table(name)) for name in ("pairs", "first_set", "second_set")]
        shards = database.execute("SELECT DISTINCT shard FROM pairs ORDER BY shard").fetchall()
        query = "SELECT * FROM pairs WHERE shard = $1"
        tasks = (
            CompareTask(
                (first.shards, second.shards),
                database.sql(query, params=shard).to_arrow_table(),
                patches,
                top,
            )
            for shard in shards
        )
        with progress("compare", sizes[0], "samples") as bar:
            for task, (of_shard, pixels_of_shard) in read_bounded(cluster, compare_shard, tasks, len(shards)):
                counts += of_shard
                pixels += pixels_of_shard
                bar.update(task.rows.num_rows)
    classes = {name: _overlap(pixels, number) for number, name in enumerate(CLASSES)}
    f1 = [values["f1"] for values in list(classes.values())[1:] if values["f1"] is not None]
    return {
        "samples": sizes[0],
        "only_first": sizes[1] - sizes[0],
        "only_second": sizes[2] - sizes[0],
        "other_faces": counts["other_faces"],
        "pixel_agreement": _share(pixels.trace(), pixels.sum()),
        "mean_f1_of_parts": _share(sum(f1), len(f1)),
        "top_parts": top,
        "patches": patches,
        "same_top_parts": _share(counts["same_top"], sizes[0] * patches**2),
        "shared_top_parts": _share(counts["shared_top"], counts["either_top"]),
        "classes": classes,
    }


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _overlap(pixels: NDArray[np.int64], number: int) -> dict[str, Any]:
    """How far two sets agree on one class, by (19, 19) pixels by class in the first and in the other set."""
    first, second, both = (
        int(count) for count in (pixels[number].sum(), pixels[:, number].sum(), pixels[number, number])
    )
    return {
        "pixels": first,
        "pixels_other": second,
        "iou": _share(both, first + second - both),
        "f1": _share(2 * both, first + second),
    }


def compare_shard(task: CompareTask) -> tuple[Counter[str], NDArray[np.int64]]:
    """The counts over the samples of a task, one sample in memory at a time, and pixels by both classes.

    Raises:
        UserError: a member is damaged, or the two sets' masks or grids do not fit.
    """
    counts: Counter[str] = Counter()
    pixels = np.zeros(NUM_CLASSES**2, np.int64)
    for row in task.rows.to_pylist():
        sides = (task.roots[0], row["a"]), (task.roots[1], row["b"])
        try:
            masks = [decode_mask(_read(*side, "mask.png")) for side in sides]
            first, second = (
                dominant_classes(merge_cells(_cells(_read(*side, "parts.npy")), task.patches), task.top)
                for side in sides
            )
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
        pixels += np.bincount(pair.ravel(), minlength=NUM_CLASSES**2)
        counts["same_top"] += int((first == second).all(dim=-1).sum())
        counts["shared_top"] += int((first & second).sum())
        counts["either_top"] += int((first | second).sum())
        counts["other_faces"] += row["other_face"]
    return counts, pixels.reshape(NUM_CLASSES, NUM_CLASSES)


def _read(root: Address, row: Mapping[str, Any], name: str) -> bytes:
    return read_member(root, row["shard"], extent_of(row, name))


def _cells(data: bytes) -> torch.Tensor:
    return torch.from_numpy(decode_cell_counts(data).astype(np.int64))


def agreement_table(figures: Mapping[str, Any]) -> str:
    """The result of `compare` as text."""
    rows = [
        (name, f"{value['pixels']:,}", f"{value['pixels_other']:,}", value["iou"], value["f1"])
        for name, value in figures["classes"].items()
    ]
    headers = ("class", "pixels", "other pixels", "IoU", "F1")
    columns = ("left", "right", "right", "right", "right")
    top, patches = figures["top_parts"], figures["patches"]
    where = f"{patches} x {patches} patches" if patches > 1 else "faces"
    lines = [
        tabulate(rows, headers, floatfmt=".3f", missingval="-", colalign=columns),
        "",
        f"{figures['samples']:,} samples in both sets, {figures['only_first']:,} only in the first, "
        f"{figures['only_second']:,} only in the other",
    ]
    if figures["samples"]:
        lines += [
            f"pixels of the same class: {figures['pixel_agreement']:.2%}",
            f"mean F1 of the face regions (without background): {figures['mean_f1_of_parts']:.3f}",
            f"{where} with exactly the same top {top} classes: {figures['same_top_parts']:.2%}",
            f"top {top} classes of either set that both have: {figures['shared_top_parts']:.2%}",
        ]
    if other := figures["other_faces"]:
        lines.append(f"{other:,} samples have different face images: their masks are of different crops")
    return "\n".join(lines)
