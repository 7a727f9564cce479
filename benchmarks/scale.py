"""``python -m benchmarks.scale``: time and memory by the number of photos, as two Markdown tables.

Millions of planned photos, which need not exist (see `benchmarks.planning`): seconds and bytes a row of each
step of the driver, in one process whose address space is limited.

Thousands of real ones: the pipeline (ingest, align without detection, parse on the local cluster) with a stub
for the parser, a TorchScript file that costs next to nothing, so that only this project's own work is
measured; then a second run, which has nothing to do. The photos are painted portraits whose bytes differ in
a JPEG comment. Memory is the peak resident set size, in MB, of the driver and of the largest worker.
"""

import json
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import cv2
import psutil
import torch
from torch import Tensor, nn

from benchmarks import latency
from benchmarks.latency import Rates
from benchmarks.planning import measure
from benchmarks.processes import run
from common import command
from common.classes import CLASSES
from common.config import Config
from common.files import write_text
from common.layout import Layout
from pipeline.align.run import align
from pipeline.ingest.run import ingest
from pipeline.parse.run import parse
from synthetic import iterate_portraits

PAINTED: Final = 64
ROWS: Final = (500_000, 1_000_000, 4_000_000)


class StubParser(nn.Module):
    """Predicts a square of skin in the middle of the face, whatever the input."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits, float (B, 19, 8, 8), of pixels (B, 3, S, S)."""
        logits = torch.zeros(pixels.shape[0], 19, 8, 8)
        logits[:, 1, 2:6, 2:6] = 5.0
        return logits


def main() -> None:
    """Read the command line, measure, and print two tables."""
    parser = command.parser("Time and memory by the number of photos.", "  python -m benchmarks.scale")
    parser.add_argument("--rows", type=int, nargs="*", default=list(ROWS), help="numbers of planned photos")
    parser.add_argument("--images", type=int, default=8000, help="real photos (default: 8000; 0: none)")
    parser.add_argument(
        "--latency", type=float, metavar="MS", help="also read them from an S3 server that waits so long"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the figures as JSON")
    options = parser.parse_args()
    figures: dict[str, object] = {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        settings = [
            f"weights.parser={_stub(folder)}",
            "parse.parser=torchscript",
            "align.mode=none",
            "ingest.shard_size=1000",
        ]
        config = command.config_from(options, settings)
        figures["planned"] = _planned(config, options.rows, folder)
        if options.images:
            photos = _photos(folder, options.images)
            figures["real"] = _real(config, photos, folder)
            if options.latency is not None:
                figures["latency"] = _latency(config, photos, options.latency, folder)
    if options.output:
        write_text(options.output, json.dumps(figures, indent=2) + "\n")


def _planned(config: Config, sizes: list[int], folder: Path) -> dict[str, object]:
    figures: dict[str, object] = {}
    for size in sizes:
        print(f"\n{size:,} planned rows")
        # A new process for each, so that its memory is that of planning alone.
        with TemporaryDirectory(dir=folder) as own, multiprocessing.get_context("spawn").Pool(1) as pool:
            figures[str(size)] = pool.apply(measure, (config, size, Path(own)))
    return figures


def _photos(folder: Path, count: int) -> Path:
    source = folder / "photos"
    source.mkdir()
    portraits = [
        cv2.imencode(".jpg", portrait.image[..., ::-1])[1].tobytes()
        for portrait in iterate_portraits(PAINTED, seed=1)
    ]
    for number in range(count):
        (source / f"{number:06d}.jpg").write_bytes(_numbered(portraits[number % PAINTED], number))
    return source


def _real(config: Config, photos: Path, folder: Path) -> dict[str, dict[str, float]]:
    count = sum(1 for _ in photos.iterdir())
    data = config.data.model_copy(update={"input": str(photos), "name": "scale"})
    own, layout = config.model_copy(update={"data": data}), Layout.at(folder / "shards")
    figures: dict[str, dict[str, float]] = {}
    for title in ("first run", "nothing to do"):
        steps: dict[str, float] = {}
        with _memory() as peak:
            for stage in (ingest, align, parse):
                started = time.monotonic()
                stage(own, layout)
                steps[stage.__name__] = time.monotonic() - started
        figures[title] = {**steps, **peak}
    print()
    _print_row((f"{count:,} photos", *(f"{name}, s" for name in steps), *(f"{name}, MB" for name in peak)))
    _print_row(["---", *["--:"] * len(figures[title])])
    for title, row in figures.items():
        _print_row((title, *_written(row, steps, ".1f"), *_written(row, peak, ".0f")))
    return figures


def _latency(config: Config, photos: Path, milliseconds: float, folder: Path) -> Rates:
    rates = latency.measure(config, photos, milliseconds, folder / "latency")
    stores = ("folder", "S3", f"S3 after {milliseconds:g} ms")
    print()
    units = [f"{store}, {unit}" for unit in ("photos/s", "CPU ms a photo") for store in stores]
    _print_row(["step", *units])
    _print_row(["---", *["--:"] * len(units)])
    for step, by_store in rates.items():
        speeds, costs = zip(*(by_store[store] for store in latency.STORES), strict=True)
        _print_row([step, *(f"{speed:.1f}" for speed in speeds), *(f"{1000 * cost:.1f}" for cost in costs)])
    return rates


def _written(row: Mapping[str, float], names: Mapping[str, float], form: str) -> Iterator[str]:
    return (format(row[name], form) for name in names)


def _print_row(cells: "list[str] | tuple[str, ...]") -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


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


if __name__ == "__main__":
    run(main)
