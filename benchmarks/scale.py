"""``python -m benchmarks.scale``: time and memory by the number of images.

The real pipeline (ingest, align without detection, parse on the local cluster) runs over 1,000, 2,000,
4,000 and 8,000 images with a stub for the parser, a TorchScript file that costs next to nothing, so that
only this project's own work is measured. The images are painted portraits whose bytes differ in a JPEG
comment. Memory is the peak resident set size, in MB, of the driver and of the largest worker.

Then a table of a million photos is planned, up to the tasks of align. The photos need not exist: their
hashes are invented, since the cost of hashing is that of reading the disk.
"""

import hashlib
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import psutil
import torch
from torch import Tensor, nn

from benchmarks.processes import run
from common import command, manifest
from common.classes import CLASSES
from common.config import Config
from common.files import write_text
from common.layout import Layout
from pipeline.align.run import align
from pipeline.align.run import plan as align_tasks
from pipeline.ingest.adapters import read_listing
from pipeline.ingest.content import Content
from pipeline.ingest.plan import plan
from pipeline.ingest.run import ingest
from pipeline.parse.run import parse
from synthetic import iterate_portraits

PAINTED = 64
SIZES = (1000, 2000, 4000, 8000)


class StubParser(nn.Module):
    """Predicts a square of skin in the middle of the face, whatever the input."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits, float (B, 19, 8, 8), of pixels (B, 3, S, S)."""
        logits = torch.zeros(pixels.shape[0], 19, 8, 8)
        logits[:, 1, 2:6, 2:6] = 5.0
        return logits


def main() -> None:
    """Read the command line, measure, and print two tables."""
    parser = command.parser("Time and memory by the number of images.", "  python -m benchmarks.scale")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="numbers of images")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows to plan (default: 1,000,000)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the figures as JSON")
    options = parser.parse_args()
    figures: dict[str, object] = {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        stub = _stub(folder)
        settings = [
            f"weights.parser={stub}",
            "parse.parser=torchscript",
            "align.mode=none",
            "ingest.shard_size=250",
        ]
        config = command.config_from(options, settings)
        figures["images"] = _images(config, options.sizes, folder)
        # A new process, so that the peak memory is that of planning alone.
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool:
            figures["planning"] = pool.apply(_planning, (config, options.rows, folder))
    if options.output:
        write_text(options.output, json.dumps(figures, indent=2) + "\n")


def _stub(folder: Path) -> Path:
    file = folder / "stub.pt"
    torch.jit.script(StubParser()).save(str(file))
    form = {
        **{"size": 64, "channels": "RGB", "layout": "NCHW", "scale": 255.0},
        **{"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0], "output": 0, "values": "logits"},
        **{"coarse": "centres", "sides": "network", "classes": list(CLASSES)},
    }
    file.with_suffix(".json").write_text(json.dumps(form))
    return file


def _images(config: Config, sizes: list[int], folder: Path) -> list[dict[str, float]]:
    portraits = [
        cv2.imencode(".jpg", portrait.image[..., ::-1])[1].tobytes()
        for portrait in iterate_portraits(PAINTED, seed=1)
    ]
    print(f"{'images':>8}{'seconds':>9}{'images/s':>10}{'driver MB':>11}{'worker MB':>11}")
    rows = []
    for size in sizes:
        source = folder / f"photos-{size}"
        source.mkdir()
        for number in range(size):
            (source / f"{number:06d}.jpg").write_bytes(_numbered(portraits[number % PAINTED], number))
        data = config.data.model_copy(update={"input": str(source), "name": "scale"})
        run = config.model_copy(update={"data": data})
        layout = Layout.at(folder / f"shards-{size}")
        started = time.monotonic()
        with _memory() as peak:
            for stage in (ingest, align, parse):
                stage(run, layout)
        seconds = time.monotonic() - started
        rows.append({"images": size, "seconds": seconds, **peak})
        print(
            f"{size:>8,}{seconds:>9.1f}{size / seconds:>10.1f}{peak['driver']:>11.0f}{peak['worker']:>11.0f}",
            flush=True,
        )
    sizes_, seconds_ = (np.array([row[name] for row in rows], float) for name in ("images", "seconds"))
    if len(rows) > 1:
        slope, start = np.polyfit(sizes_, seconds_, 1)
        off = np.abs(slope * sizes_ + start - seconds_) / seconds_
        print(f"linear fit: {start:.1f} s + {1000 * slope:.2f} ms per image, error at most {off.max():.1%}")
        growth = [max(r[who] for r in rows) / min(r[who] for r in rows) - 1 for who in ("driver", "worker")]
        print(f"memory grows by {growth[0]:.1%} in the driver, {growth[1]:.1%} in the workers (target: 10 %)")
    return rows


def _numbered(jpeg: bytes, number: int) -> bytes:
    """The JPEG with a comment that makes its bytes unique."""
    text = f"{number:08d}".encode()
    return jpeg[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + jpeg[2:]


@contextmanager
def _memory() -> Iterator[dict[str, float]]:
    """Peak resident set sizes, in MB, of this process and of its largest child within the context."""
    peak, done = {"driver": 0.0, "worker": 0.0}, threading.Event()
    this = psutil.Process(os.getpid())

    def watch() -> None:
        while not done.wait(0.2):
            peak["driver"] = max(peak["driver"], this.memory_info().rss / 1e6)
            for child in this.children(recursive=True):
                try:
                    peak["worker"] = max(peak["worker"], child.memory_info().rss / 1e6)
                except psutil.Error:
                    continue

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def _planning(config: Config, rows: int, folder: Path) -> dict[str, float]:
    """Read and plan a table of `rows` photos, write the manifest, and divide it into tasks of `align`."""
    file = folder / "photos.csv"
    photo = folder / "folder/00000000.jpg"  # a table must have at least one photo
    photo.parent.mkdir()
    photo.touch()
    with file.open("w") as stream:
        stream.write("path,identity,smiling\n")
        for number in range(rows):
            stream.write(f"folder/{number:08d}.jpg,person{number // 20},{number % 2}\n")
    data = config.data.model_copy(update={"input": str(file), "name": "planned"})
    run, layout = config.model_copy(update={"data": data}), Layout.at(folder / "planned")
    contents = [Content(hashlib.sha256(b"%d" % number).hexdigest(), 1) for number in range(rows)]
    started = time.monotonic()
    with _memory() as peak:
        listing = read_listing(file, "table")
        table = plan(listing, contents, run.ingest, run.data.name)
        del listing, contents
        metadata = {"dataset": "planned", "root": str(folder), "aligned": "true"}
        manifest.write_table(layout.source, table, ("smiling",), metadata)
        written = time.monotonic()
        tasks = align_tasks(manifest.read(layout.source), run, layout)
    figures = {
        "rows": rows,
        "plan_seconds": written - started,
        "task_seconds": time.monotonic() - written,
        "driver": peak["driver"],
        "manifest_mb": layout.source.stat().st_size / 1e6,
    }
    print(
        f"planning {rows:,} rows: {figures['plan_seconds']:.1f} s to read, plan and write source.parquet "
        f"({figures['manifest_mb']:.0f} MB), {figures['task_seconds']:.1f} s to divide it into "
        f"{len(tasks):,} tasks; peak memory {peak['driver']:.0f} MB"
    )
    return figures


if __name__ == "__main__":
    run(main)
