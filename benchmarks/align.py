"""``python -m benchmarks.align``: detection and alignment against one picture at a time.

Four ways, in turn, on the same painted photos (or --faces DIR):

a. ``plain loop``: facexlib's ``detect_faces`` one picture after the other, with torch's own threads;
   detection alone, the pictures in memory.
b. ``pipeline.align``: from files to aligned shards (ingest, align) on all cores, decoding, warping and
   encoding included. Also without the start-up of the cluster.
c. ``detect``: what b's workers detect with, on pictures in memory, one process per core.
d. ``in batches``: facexlib's network on batches of eight pictures, all brought to one size, one process
   per core; the network alone, without decoding its answers.

Photos differ in size, so a batch needs them padded or resized: d is a bound for what batches could give.
"""

import multiprocessing
import os
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import cv2
import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from benchmarks.parse import start_up
from common import command
from common.alignment.detector import detect, load_detector
from common.config import Config
from common.errors import UserError
from common.images import decode_photo
from common.layout import Layout
from common.weights import find
from pipeline.align.run import align
from pipeline.ingest.run import ingest
from synthetic import write_dataset

IN_MEMORY: Final = 48
"""Pictures that a, c and d look at."""

BATCH: Final = 8


def main() -> None:
    """Read the command line, measure the four ways in turn, and print the ratios."""
    parser = command.parser("Pictures per second of detection and alignment.", "  python -m benchmarks.align")
    parser.add_argument("--faces", metavar="DIR", help="photos (default: painted ones, made now)")
    parser.add_argument("--count", type=int, default=800, help="pictures that b reads (default: 800)")
    parser.add_argument("--rounds", type=int, default=2, help="rounds of all four (default: 2)")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        source = options.faces
        if source is None:
            source = str(Path(folder, "portraits"))
            write_dataset(Path(source), count=options.count, seed=1, wild=True)
        size = max(1, options.count // 16)
        settings = [f"data.input={source}", "data.name=photos", "align.mode=detect"]
        settings += [f"ingest.limit={options.count}", f"ingest.shard_size={size}"]
        _measure(command.config_from(options, settings), options.rounds, Path(folder))


def _measure(config: Config, rounds: int, folder: Path) -> None:
    weights = find(config.align.detector, config.weights)
    workers = config.cluster.workers or len(os.sched_getaffinity(0))
    waiting = start_up(config, partial(load_detector, config.align.detector, weights))
    rates: dict[str, list[float]] = {name: [] for name in ("a", "b", "steady", "c", "d")}
    for turn in range(rounds):
        layout = Layout.at(folder / f"shards-{turn}")
        began = time.monotonic()
        ingest(config, layout)
        align(config, layout)
        seconds = time.monotonic() - began
        rows = pq.read_table(str(layout.source), columns=["source", "reason"]).to_pylist()
        sources = [row["source"] for row in rows if row["reason"] is None]
        pictures = [_small(Path(config.data.input, name), config) for name in sources[:IN_MEMORY]]
        rates["b"].append(len(sources) / seconds)
        rates["steady"].append(len(sources) / (seconds - waiting))
        rates["a"].append(_plain_rate(config, weights, pictures, workers))
        for name, way in (("c", _one_by_one), ("d", _in_batches)):
            rates[name].append(_parallel(way, config, weights, pictures, workers))
    a, b, steady, c, d = (float(np.median(values)) for values in rates.values())
    print(f"\n{workers} processes, {rounds} rounds, medians in pictures per second")
    print(f"  a plain loop, detection alone          {a:7.2f}")
    print(f"  b pipeline.align, files to shards      {b:7.2f}")
    print(f"    without {waiting:4.1f} s of start-up          {steady:7.2f}")
    print(f"  c detection as in b, alone             {c:7.2f}")
    print(f"  d the network on batches of {BATCH}          {d:7.2f}")
    print(f"b / a = {b / a:.2f}, without start-up {steady / a:.2f}; c / a = {c / a:.2f}")
    print(f"b / c = {b / c:.3f}, without start-up {steady / c:.3f}; c / d = {c / d:.3f}")


def _small(path: Path, config: Config) -> NDArray[np.uint8]:
    """A picture as the detector sees it."""
    image = decode_photo(path.read_bytes(), config.ingest.max_pixels, config.ingest.min_side)
    shrink = min(1.0, config.align.detect_side / max(image.shape[:2]))
    size = (round(image.shape[1] * shrink), round(image.shape[0] * shrink))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _plain_rate(config: Config, weights: Path, pictures: list[NDArray[np.uint8]], threads: int) -> float:
    detector = load_detector(config.align.detector, weights)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    bgr = [np.ascontiguousarray(picture[..., ::-1]) for picture in pictures]
    with torch.no_grad():
        detector.detect_faces(bgr[0], conf_threshold=config.align.threshold)
        began = time.monotonic()
        for picture in bgr:
            detector.detect_faces(picture, conf_threshold=config.align.threshold)
    rate = len(bgr) / (time.monotonic() - began)
    torch.set_num_threads(before)
    return rate


def _one_by_one(config: Config, weights: Path, pictures: list[NDArray[np.uint8]]) -> None:
    detector = load_detector(config.align.detector, weights)
    for picture in pictures:
        detect(picture, detector, config.align.threshold)


def _in_batches(config: Config, weights: Path, pictures: list[NDArray[np.uint8]]) -> None:
    detector = load_detector(config.align.detector, weights)
    height, width = (int(np.mean([picture.shape[axis] for picture in pictures])) for axis in (0, 1))
    alike = np.stack([cv2.resize(picture, (width, height)) for picture in pictures])
    with torch.inference_mode():
        for pixels in torch.from_numpy(alike).permute(0, 3, 1, 2).split(BATCH):
            detector(pixels.float())


def _parallel(
    way: Callable[[Config, Path, list[NDArray[np.uint8]]], None],
    config: Config,
    weights: Path,
    pictures: list[NDArray[np.uint8]],
    workers: int,
) -> float:
    """Pictures per second over all processes, each of which looks at all pictures."""
    context = multiprocessing.get_context("spawn")
    together, rates = context.Barrier(workers), context.Queue()
    arguments = (way, config, weights, pictures, together, rates)
    processes = [context.Process(target=_timed, args=arguments) for _ in range(workers)]
    for process in processes:
        process.start()
    total = sum(rates.get() for _ in processes)
    for process in processes:
        process.join()
    return total


def _timed(
    way: Callable[[Config, Path, list[NDArray[np.uint8]]], None],
    config: Config,
    weights: Path,
    pictures: list[NDArray[np.uint8]],
    together: Barrier,
    rates: "Queue[float]",
) -> None:
    if not pictures:
        raise UserError("there is no picture to look at")
    way(config, weights, pictures[:BATCH])
    together.wait()
    began = time.monotonic()
    way(config, weights, pictures)
    rates.put(len(pictures) / (time.monotonic() - began))


if __name__ == "__main__":
    command.run(main)
