"""Seconds and memory of the driver for millions of planned photos, whose bytes nobody has.

A table of paths is written by code, and `hash_of_path` stands in for reading the photos. Everything else is
the real pipeline: ingest lists, plans and writes ``source.parquet``; align and parse plan their shards and
compare them with records; the manifests are joined and written. The records of finished shards are written
by code too, as large as real ones. All of it runs in one process whose address space is limited.
"""

import hashlib
import resource
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from common.config import Config
from common.input_files import LocalFiles
from common.layout import Layout
from common.shards import MEMBERS
from pipeline.align.run import plan as align_tasks
from pipeline.align.run import read_plan as read_align_plan
from pipeline.align.shard import AlignTask
from pipeline.ingest.content import Content
from pipeline.ingest.hash_task import Photo
from pipeline.ingest.hashing import Photos
from pipeline.ingest.run import ingest
from pipeline.parse.manifests import write_manifests
from pipeline.parse.run import plan as parse_tasks
from pipeline.parse.run import read_aligned
from pipeline.parse.run import read_plan as read_parse_plan
from pipeline.runner.quarantine import Refusals
from pipeline.runner.shard_record import ShardTask, write_record
from pipeline.runner.shard_runner import finished_shards, stale_tasks

FEW: Final = 1000
"""Rows of the run that imports everything before the memory is measured."""

CONSTANT: Final = 300_000_000
"""Bytes of address space above the imports that do not depend on the rows: stacks and pools of threads, and
the pieces in which rows are read and written."""

STEPS: Final = ("ingest", "ingest again", "align: plan", "align: compare", "parse: plan", "manifests")

Figures = dict[str, dict[str, float]]


def hash_of_path(photo: Photo) -> Content:
    """Stands in for reading a photo: a hash that depends on the path alone."""
    return Content(hashlib.sha256(photo.path.encode()).hexdigest(), 1)


def same_stamps(paths: Sequence[str]) -> list[str | None]:
    """Stands in for looking at photos: none has changed."""
    return ["1 1700000000000000000"] * len(paths)


PHOTOS: Final = Photos(same_stamps, hash_of_path, threads=1, cluster=None)


def measure(config: Config, rows: int, folder: Path, allowed: int) -> Figures:
    """Seconds, and bytes a row above the imports, of each of `STEPS`.

    The table's photos pass for existing ones.

    Args:
        config: with a parser that exists.
        rows: photos to plan.
        folder: an empty one.
        allowed: bytes of address space a row above the imports and `CONSTANT`.

    Raises:
        MemoryError: that is not enough. Arrow's own error is a subclass.
    """
    with patch.object(LocalFiles, "mode", lambda self, path: stat.S_IFREG):
        _run(config, FEW, folder / "few", 0)  # imports everything, and fills pools
        limit = 1000 * _kilobytes("VmSize") + allowed * rows + CONSTANT
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        return _run(config, rows, folder / "many", _kilobytes("VmRSS"))


def _run(config: Config, rows: int, folder: Path, imports: int) -> Figures:
    data = config.data.model_copy(update={"input": str(_table(folder, rows)), "name": "planned"})
    run, layout = config.model_copy(update={"data": data}), Layout.at(folder / "out")
    figures: Figures = {}

    @contextmanager
    def step(name: str) -> Iterator[None]:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        started = time.monotonic()
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            yield
        seconds = time.monotonic() - started
        figures[name] = {"seconds": seconds, "bytes": 1000 * (_kilobytes("VmHWM") - imports) / rows}

    with step("ingest"):
        ingest(run, layout, photos=PHOTOS)
    with step("ingest again"):
        ingest(run, layout, photos=PHOTOS)
    with step("align: plan"):
        tasks = align_tasks(read_align_plan(layout), run, layout)
    _write_records(tasks, layout)
    with step("align: compare"):
        finished = finished_shards(tasks[0].tar.parent, layout, "align")
        finished.update([])
        stale = stale_tasks("align", tasks, finished, Refusals(rows, 0), any_code=False)
    assert not stale
    del tasks, finished
    with step("parse: plan"):
        planned = read_parse_plan(layout)
        parsed = parse_tasks(planned, read_aligned(planned, layout), run, layout)
    with step("manifests"):
        written = write_manifests(planned, parsed, layout)
    assert written.samples == rows
    return figures


def _kilobytes(name: str) -> int:
    """An entry of this process's status, such as ``VmRSS``."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


def _table(folder: Path, rows: int) -> Path:
    file = folder / "photos.csv"
    folder.mkdir()
    with file.open("w") as stream:
        stream.write("path,identity,smiling\n")
        stream.writelines(
            f"folder/{number:08d}.jpg,person{number // 20},{number % 2}\n" for number in range(rows)
        )
    return file


def _write_records(tasks: list[AlignTask], layout: Layout) -> None:
    """The records of all shards of both stages, and empty tars beside them."""
    numbers = {f"{name}.{what}": 1_234_567 for name in MEMBERS for what in ("offset", "size", "crc32")}
    for task in tasks:
        rows = list(task.rows)
        aligned = [{"key": row["key"], "notices": []} for row in rows]
        _write_record(task, aligned)
        own = {"box_score": None, "confidence": 0.9876, **numbers}
        finished = [{"key": row["key"], "source": row["source"], **own} for row in rows]
        tar = layout.shards / task.tar.parent.name / task.tar.name
        _write_record(ShardTask(tar, "", "", 0), finished)


def _write_record(task: ShardTask, samples: list[dict[str, Any]]) -> None:
    task.tar.parent.mkdir(parents=True, exist_ok=True)
    write_record(task, samples, [])
    task.tar.touch()
