"""``python -m benchmarks.align``: detection and alignment compared with a loop over single images.

Four variants are measured in turn on the same painted photos (or on --faces DIR):

a. ``plain loop``: facexlib's ``detect_faces``, image by image, with PyTorch's own threads; detection
   alone, on images in memory.
b. ``pipeline.align``: from files to aligned shards (ingest, align) on all cores, including decoding,
   warping and encoding. Also without the start-up of the cluster.
c. ``detect``: the detection of b's workers on images in memory, one process per core.
d. ``in batches``: facexlib's network on batches of eight images of equal size, one process per core;
   the forward pass alone, without decoding its output into boxes.

The first line says what a JPEG of 4,000 x 3,000 pixels costs from its bytes to the crop, decoded in full and
as finely as needed, in turns. The last one says what a photo costs in one process where the first look is not
enough: after a quarter turn, without a face, and with 60 faces of which all are wanted, the last two of 24
megapixels.

Photos differ in size, so batches would need padding or resizing: d is an upper bound for batching.
"""

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import cv2
import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from benchmarks.processes import parallel_rate, run
from common import command
from common.alignment.crops import aligned_crops, find_faces
from common.alignment.detector import DETECT_SIDE, FIRST_SIDE, detect, load_detector
from common.config import Config
from common.errors import UserError
from common.images import decode_photo
from common.layout import Layout
from common.weights import find
from pipeline.align.run import align
from pipeline.ingest.run import ingest
from pipeline.runner.cluster import connect
from synthetic import iterate_portraits, write_dataset

IN_MEMORY: Final = 48
"""Number of images in a, c and d."""

BATCH: Final = 8

LARGE_PHOTOS: Final = 9

LARGE_FACES: Final = (900, 1500, 2100, 2700)
"""Heights of CelebA's crop around the face, in photos of 3,000."""


def main() -> None:
    """Read the command line, measure the four variants in turn, and print the ratios."""
    parser = command.parser("Images per second of detection and alignment.", "  python -m benchmarks.align")
    parser.add_argument("--faces", metavar="DIR", help="photos (default: painted ones, made now)")
    parser.add_argument("--count", type=int, default=800, help="images that b reads (default: 800)")
    parser.add_argument("--rounds", type=int, default=2, help="rounds of all four (default: 2)")
    parser.add_argument("--large", metavar="DIR", help="faces for large photos (default: painted)")
    parser.add_argument("--large-only", action="store_true", help="only the line of large photos")
    options = parser.parse_args()
    print(large_photos(command.config_from(options), options.large))
    if options.large_only:
        return
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
    start_up_seconds = start_up(config, partial(load_detector, config.align.detector, weights))
    rates: dict[str, list[float]] = {name: [] for name in ("a", "b", "steady", "c", "d")}
    for turn in range(rounds):
        layout = Layout.at(folder / f"shards-{turn}")
        started = time.monotonic()
        ingest(config, layout)
        align(config, layout)
        seconds = time.monotonic() - started
        rows = pq.read_table(str(layout.source), columns=["source", "reason"]).to_pylist()
        sources = [row["source"] for row in rows if row["reason"] is None]
        if not sources:
            raise UserError(f"{config.data.input} holds no image that can be read")
        images = [_small(Path(config.data.input, name), config) for name in sources[:IN_MEMORY]]
        rates["b"].append(len(sources) / seconds)
        rates["steady"].append(len(sources) / (seconds - start_up_seconds))
        rates["a"].append(_plain_rate(config, weights, images, workers))
        for name, prepare in (("c", _one_by_one), ("d", _in_batches)):
            rates[name].append(parallel_rate(prepare, (config, weights, images), len(images), workers))
    a, b, steady, c, d = (float(np.median(values)) for values in rates.values())
    print(f"\n{workers} processes, {rounds} rounds, medians in images per second")
    print(f"  a plain loop, detection alone          {a:7.2f}")
    print(f"  b pipeline.align, files to shards      {b:7.2f}")
    print(f"    without {start_up_seconds:4.1f} s of start-up          {steady:7.2f}")
    print(f"  c detection as in b, alone             {c:7.2f}")
    print(f"  d the network on batches of {BATCH}          {d:7.2f}")
    print(f"b / a = {b / a:.2f}, without start-up {steady / a:.2f}; c / a = {c / a:.2f}")
    print(f"b / c = {b / c:.3f}, without start-up {steady / c:.3f}; c / d = {c / d:.3f}")
    print(f"seconds per photo: {search_seconds(config, weights, images)}")


def start_up(config: Config, load_model: Callable[[], object]) -> float:
    """Seconds to start a cluster that is not the first of this process, load the model, and stop it again."""
    for _ in range(2):
        started = time.monotonic()
        with connect(config.cluster, 64, load_model):
            pass
    return time.monotonic() - started


def large_photos(config: Config, folder: str | None) -> str:
    """CPU time per photo of 12 megapixels, decoded in full and as finely as needed, and how crops differ."""
    detector = load_detector(config.align.detector, find(config.align.detector, config.weights))
    cv2.setNumThreads(1)
    files = sorted(Path(folder).glob("*.jpg"))[:LARGE_PHOTOS] if folder else []
    faces = (decode_photo(file.read_bytes(), 1 << 24).image for file in files)
    painted = (portrait.image for portrait in iterate_portraits(LARGE_PHOTOS, seed=1))
    seconds, moved, changed = [], [], []
    for number, face in enumerate(faces if folder else painted):
        photo = large_photo(face, LARGE_FACES[number % len(LARGE_FACES)], number)
        pair, times = [], []
        for side in (None, FIRST_SIDE):
            started = time.process_time()
            picture = decode_photo(photo, config.ingest.max_pixels, side)
            whole = picture if side else picture.image
            pair.append(aligned_crops(whole, config.align, detector)[0])
            times.append(time.process_time() - started)
        full, reduced = pair
        assert full.face and reduced.face
        seconds.append(times)
        moved.append(np.abs((full.face.landmarks - reduced.face.landmarks) @ full.matrix[:, :2].T).max())
        changed.append(np.abs(full.image.astype(int) - reduced.image).mean())
    full_ms, ms = 1000 * np.median(seconds[1:], axis=0)
    return (
        f"CPU time of a JPEG of 12 megapixels: {full_ms:.0f} ms in full, {ms:.0f} ms as finely as needed, "
        f"{full_ms / ms:.2f} x; landmarks move by {max(moved):.2f} pixels of the crop at most, "
        f"pixels change by {np.mean(changed):.2f} of 255"
    )


def large_photo(face: NDArray[np.uint8], height: int, seed: int) -> bytes:
    """A JPEG of 4,000 x 3,000 pixels: soft colours with a sensor's noise, and a face `height` pixels high."""
    rng = np.random.default_rng(seed)
    colours = rng.uniform(40, 210, (9, 12, 3)).astype(np.float32)
    photo = cv2.resize(colours, (4000, 3000), interpolation=cv2.INTER_CUBIC)
    photo += rng.normal(0, 6, (3000, 4000, 1)).astype(np.float32)
    scale = height / len(face)
    large = cv2.resize(face, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    top, left = ((end - side) // 2 for end, side in zip(photo.shape, large.shape[:2], strict=False))
    photo[top : top + len(large), left : left + large.shape[1]] = large
    bgr = np.clip(photo, 0, 255).astype(np.uint8)[..., ::-1]
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()


def search_seconds(config: Config, weights: Path, images: list[NDArray[np.uint8]]) -> str:
    """Seconds of `find_faces` per photo, by what it shows, and how many faces it finds there."""
    detector = load_detector(config.align.detector, weights)
    cells = [cv2.resize(images[number % len(images)], (600, 666)) for number in range(60)]
    crowd = np.vstack([np.hstack(cells[start : start + 10]) for start in range(0, 60, 10)]).astype(np.uint8)
    kinds = {
        "upright": (images, "largest"),
        "on its side": ([np.rot90(image) for image in images], "largest"),
        "no face": ([np.full((4000, 6000, 3), 128, np.uint8)] * 2, "largest"),
        "60 faces": ([crowd] * 2, "all"),
    }
    costs = []
    for kind, (photos, policy) in kinds.items():
        align_settings = config.align.model_copy(update={"faces": policy})
        find_faces(photos[0], detector, align_settings)
        started = time.monotonic()
        faces = sum(len(find_faces(photo, detector, align_settings)) for photo in photos)
        seconds = (time.monotonic() - started) / len(photos)
        costs.append(f"{kind} {seconds:.2f} ({faces / len(photos):.1f} faces)")
    return ", ".join(costs)


def _small(path: Path, config: Config) -> NDArray[np.uint8]:
    """An image at the size at which the detector reads it."""
    image = decode_photo(path.read_bytes(), config.ingest.max_pixels).image
    scale = min(1.0, DETECT_SIDE / max(image.shape[:2]))
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _plain_rate(config: Config, weights: Path, images: list[NDArray[np.uint8]], threads: int) -> float:
    detector = load_detector(config.align.detector, weights)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    bgr = [np.ascontiguousarray(image[..., ::-1]) for image in images]
    with torch.no_grad():
        detector.detect_faces(bgr[0], conf_threshold=config.align.threshold)
        started = time.monotonic()
        for image in bgr:
            detector.detect_faces(image, conf_threshold=config.align.threshold)
    rate = len(bgr) / (time.monotonic() - started)
    torch.set_num_threads(before)
    return rate


def _one_by_one(config: Config, weights: Path, images: list[NDArray[np.uint8]]) -> Callable[[], None]:
    detector = load_detector(config.align.detector, weights)

    def work() -> None:
        for image in images:
            detect(image, detector, config.align.threshold)

    detect(images[0], detector, config.align.threshold)
    return work


def _in_batches(config: Config, weights: Path, images: list[NDArray[np.uint8]]) -> Callable[[], None]:
    detector = load_detector(config.align.detector, weights)
    height, width = (int(np.mean([image.shape[axis] for image in images])) for axis in (0, 1))
    resized = np.stack([cv2.resize(image, (width, height)) for image in images])
    batches = torch.from_numpy(resized).permute(0, 3, 1, 2).split(BATCH)

    def work() -> None:
        with torch.inference_mode():
            for pixels in batches:
                detector(pixels.float())

    with torch.inference_mode():
        detector(batches[0].float())
    return work


if __name__ == "__main__":
    run(main)
