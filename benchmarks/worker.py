"""``python -m benchmarks.worker``: how many faces a second the host side of a GPU worker can finish.

The parser is a stand-in: a stub that holds a lock, which all processes share like one GPU, for a given time
per face and returns painted masks. All else is the real worker: read the aligned tar, decode, sides, class
means, counts, PNG, NPY, tar, one process per core. Resizing and softmax are work of the device and left out.
"""

import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.synchronize import Lock
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.processes import parallel_rate, run
from common import command
from common.alignment.warp import central_square, warp
from common.config import Config
from common.members import encode_face, encode_metadata
from common.parsing.find_parser import find_parser
from common.parsing.masks import assign_sides, mean_by_class
from common.parsing.parser import GPU_BATCH, Parsed
from common.shards import ShardWriter
from pipeline.parse import shard
from synthetic import iterate_portraits

PAINTED: Final = 64
FACES: Final = 2048


class StubParser:
    """A stand-in for a parser on a GPU that takes `milliseconds` per face."""

    def __init__(self, masks: NDArray[np.uint8], milliseconds: float, device: Lock) -> None:
        self._masks, self._seconds, self._device = masks, milliseconds / 1000, device

    def __call__(self, faces: NDArray[np.uint8]) -> Parsed:
        """As `common.parsing.parser.FaceParser`."""
        if self._seconds:
            with self._device:
                time.sleep(self._seconds * len(faces))
        masks = assign_sides(self._masks[: len(faces)])
        return masks, mean_by_class(np.full(masks.shape, 0.9, np.float32), masks), {}


def main() -> None:
    """Read the command line, measure a stub of 0 ms and one of 2 ms, and print what follows for a GPU."""
    parser = command.parser(
        "Faces per second of a worker around its network.", "  python -m benchmarks.worker"
    )
    options = parser.parse_args()
    config = command.config_from(options)
    cores = len(os.sched_getaffinity(0))
    with TemporaryDirectory() as name:
        masks = _painted(Path(name, "aligned-000000.tar"), config.align.size)
        rates, seconds = {}, multiprocessing.get_context("spawn").Value("d")
        for milliseconds in (2.0, 0.0):
            device = multiprocessing.get_context("spawn").Lock()
            seconds.value = 0.0
            arguments = (config, Path(name), masks, milliseconds, device, seconds)
            rates[milliseconds] = parallel_rate(_worker, arguments, FACES, cores)
    free, busy, per_face = rates[0.0], rates[2.0] * 2 / 1000, seconds.value / cores / FACES
    print(f"{cores} processes, {FACES:,} faces each, {config.align.size} pixels, batches of {GPU_BATCH}")
    print(f"stub of 0 ms: {free:.0f} faces/s, {free / cores:.0f} per core (target: 250)")
    print(f"stub of 2 ms: {rates[2.0]:.0f} faces/s, the device is busy {busy:.0%} of the time (target: 90 %)")
    print(
        f"CPU time of a face: {1000 * per_face:.2f} ms, so a core makes {1 / per_face:.0f} faces/s, "
        f"and a GPU of 1,000 faces/s needs {1000 * per_face:.1f} cores like these"
    )


def _painted(tar: Path, side: int) -> NDArray[np.uint8]:
    """Write an aligned tar of `FACES` faces; returns `PAINTED` masks, uint8 (N, S, S)."""
    faces, masks = [], []
    for portrait in iterate_portraits(PAINTED, seed=1):
        square = central_square(portrait.image.shape[1], portrait.image.shape[0], side)
        faces.append(encode_face(warp(portrait.image, square, side)))
        masks.append(cv2.warpAffine(portrait.mask, square, (side, side), flags=cv2.INTER_NEAREST))
    with ShardWriter(tar) as writer:
        for number in range(FACES):
            metadata = encode_metadata({"source": f"{number}.jpg", "box_score": None})
            writer.add(f"{number:08d}", {"jpg": faces[number % PAINTED], "json": metadata})
    return np.stack(masks).astype(np.uint8)


def _worker(
    config: Config, folder: Path, masks: NDArray[np.uint8], milliseconds: float, device: Lock, seconds: Any
) -> Callable[[], None]:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    task = shard.ParseTask(
        tar=folder / f"{os.getpid()}-000000.tar",
        inputs="",
        code="",
        size=FACES,
        aligned=folder / "aligned-000000.tar",
        parser=find_parser(config.parse, config.weights),
    )
    stub = StubParser(masks, milliseconds, device)
    shard.load_parser = lambda file: stub  # type: ignore[assignment]

    def work() -> None:
        started = time.process_time()
        shard.parse_shard(task, frozenset(), lambda count: None)
        with seconds.get_lock():
            seconds.value += time.process_time() - started

    return work


if __name__ == "__main__":
    run(main)
