"""Seconds and memory of the driver for millions of planned photos, whose bytes nobody has.

    python -m benchmarks.planning --rows 10000000

A table of paths is written by code, and `hash_of_path` stands in for reading the photos. Everything else is
the real pipeline: ingest lists, plans and writes ``source.parquet``; align and parse plan their shards and
compare them with records; the manifests are joined and written. The records of finished shards are written
by code too, as large as real ones. Of each step are printed the seconds, those of the processor on all cores,
and the greatest resident memory of the process, which has imported both stages and so torch.
"""

import argparse
import hashlib
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from unittest.mock import patch

from common.config import Config, load
from common.input_files import LocalFiles
from common.layout import Layout
from common.members import MEMBERS
from pipeline.align.run import plan as align_tasks
from pipeline.align.run import read_plan as read_align_plan
from pipeline.align.shard import AlignTask
from pipeline.ingest.hashing import Content, Photo, Photos
from pipeline.ingest.run import ingest
from pipeline.parse.manifests import write_manifests
from pipeline.parse.run import plan as parse_tasks
from pipeline.parse.run import read_aligned
from pipeline.runner.finished_shards import FinishedShards
from pipeline.runner.planned_shards import read_planned
from pipeline.runner.shard_record import Refusals, ShardTask, write_record
from pipeline.runner.shard_runner import stale_tasks

FEW: Final = 1000
"""Rows of the run that imports everything before anything is measured."""

STEPS: Final = ("ingest", "ingest again", "align: plan", "align: compare", "parse: plan", "manifests")

Figures = dict[str, dict[str, float]]
"""By step: ``seconds``, ``cpu`` seconds and ``bytes`` of the greatest resident memory."""


def hash_of_path(photo: Photo) -> Content:
    """Stands in for reading a photo: a hash that depends on the path alone."""
    return Content(hashlib.sha256(photo.path.encode()).hexdigest(), 1)


def same_stamps(paths: Sequence[str]) -> list[str | None]:
    """Stands in for looking at photos: none has changed."""
    return ["1 1700000000000000000"] * len(paths)


PHOTOS: Final = Photos(same_stamps, hash_of_path, threads=1, cluster=None)


def measure(config: Config, rows: int, folder: Path) -> Figures:
    """The figures of each of `STEPS`, which are printed too; the table's photos pass for existing ones.

    Args:
        config: with a parser that exists.
        rows: photos to plan.
        folder: an empty one.
    """
    with patch.object(LocalFiles, "mode", lambda self, path: stat.S_IFREG):
        _run(config, FEW, folder / "few", silent=True)
        return _run(config, rows, folder / "many")


def _run(config: Config, rows: int, folder: Path, silent: bool = False) -> Figures:
    data = config.data.model_copy(update={"input": str(_table(folder, rows)), "name": "planned"})
    run, layout = config.model_copy(update={"data": data}), Layout.at(folder / "out")
    figures: Figures = {}

    @contextmanager
    def step(name: str) -> Iterator[None]:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        started, cpu = time.monotonic(), time.process_time()
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            yield
        its = {"seconds": time.monotonic() - started, "cpu": time.process_time() - cpu, "bytes": _peak()}
        figures[name] = its
        if not silent:
            memory = its["bytes"] / 1e6
            print(f"{name:<16}{its['seconds']:>9.1f} s{its['cpu']:>9.1f} s CPU{memory:>7.0f} MB", flush=True)

    with step("ingest"):
        ingest(run, layout, photos=PHOTOS)
    with step("ingest again"):
        ingest(run, layout, photos=PHOTOS)
    with step("align: plan"):
        tasks = align_tasks(read_align_plan(layout), run, layout)
    _write_records(tasks, layout)
    with step("align: compare"):
        finished = FinishedShards(tasks[0].tar.parent, layout, "align")
        finished.update([])
        stale = stale_tasks("align", tasks, finished, Refusals(rows, 0), any_code=False)
    assert not stale
    del tasks, finished
    with step("parse: plan"):
        planned = read_planned(layout.source, [])
        parsed = parse_tasks(planned, read_aligned(planned, layout), run, layout)
    with step("manifests"):
        written = write_manifests(planned, parsed, layout)
    assert written.samples == rows
    return figures


def _peak() -> int:
    """Bytes of the greatest resident memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1000 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])


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
        finished = [
            {"key": row["key"], "source": row["source"], **own, "jpg.offset": number}
            for number, row in enumerate(rows)
        ]
        tar = layout.shards / task.tar.parent.name / task.tar.name
        _write_record(ShardTask(tar, "", "", 0), finished)


def _write_record(task: ShardTask, samples: list[dict[str, Any]]) -> None:
    task.tar.parent.mkdir(parents=True, exist_ok=True)
    write_record(task, samples, [])
    task.tar.touch()


def main() -> None:
    """Read the command line, and print the figures."""
    parser = argparse.ArgumentParser(description="Plan photos that nobody has.")
    parser.add_argument("--rows", type=int, default=1_000_000, help="photos to plan (default: 1000000)")
    flags = parser.parse_args()
    with TemporaryDirectory() as folder:
        measure(load(), flags.rows, Path(folder))


if __name__ == "__main__":
    main()
