"""``python -m benchmarks.loader``: what the streaming loader gives against the published way and the limit.

Four ways to the inputs of stage 1, in turn, on the same samples, one thread each:

a. ``published way``: PIL decodes, per sample, and every label is made in Python, the way the
   method's published code works (a 224-pixel patch of the 512-pixel face, its classes counted by
   nested sums over a tensor, nine tiles cropped, resized and normalised one by one).
b. ``loader with labels``: this project's loader and all labels and tiles of stage 1, at 224 pixels.
c. ``loader alone``: reading and decoding, no labels.
d. ``limit``: OpenCV decoding the same JPEG and PNG bytes, already in memory.

Samples per second count processor time, so that other work on the machine changes little.
"""

import io
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.processes import run
from common import command
from common.classes import NUM_CLASSES
from common.config import Config
from common.config import load as load_config
from common.layout import Layout
from common.members import decode_face, decode_mask, encode_face, encode_mask
from common.memory import keep_freed_memory
from common.shards import read_shard
from training.data.loader import Batch, load
from training.data.sampler import sequential_batches
from training.data.samples import Samples, read_samples
from training.pretrain.model import PretrainModel

BATCH: Final = 32
FACE_SIDE: Final = 512
"""Side of the pictures that the published code works on."""
INPUT_SIDE: Final = 224
PUBLISHED_SAMPLES: Final = 24
TILE_CROP: Final = 150
"""Side of the crop within a tile of 512 / 3 pixels."""


def main() -> None:
    """Read the command line, measure the four ways in turn, and print the ratios."""
    parser = command.parser(
        "Samples/s of the loader, with and without labels.", "  python -m benchmarks.loader --shards shards"
    )
    parser.add_argument("--shards", metavar="DIR", help="finished shards (default: painted ones, made now)")
    parser.add_argument("--samples", type=int, default=192, help="samples per round (default: 192)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of all four (default: 5)")
    options = parser.parse_args()
    config = command.config_from(
        options, [f"network.input_size={INPUT_SIDE}", "pretrain.patch_fraction=[0.4375, 0.4375]"]
    )
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    keep_freed_memory()
    with TemporaryDirectory() as folder:
        layout = Layout.at(options.shards) if options.shards else _painted(Path(folder), options.samples)
        faces = read_samples(layout, ("train", "val", "test", "unlabelled"))
        faces = faces.take(np.arange(min(options.samples, len(faces))))
        _measure(config, faces, options.rounds)


def _measure(config: Config, faces: Samples, rounds: int) -> None:
    stored = _bytes(faces)
    large = [_enlarged(*pair) for pair in stored[:PUBLISHED_SAMPLES]]
    ways: dict[str, Callable[[], int]] = {
        "a published way": lambda: _published(large),
        "b loader with labels": lambda: _with_labels(config, faces),
        "c loader alone": lambda: sum(len(batch.indices) for batch in _batches(config, faces)),
        "d limit": lambda: sum(_decode(*pair) for pair in stored),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            began = time.process_time()
            count = way()
            if turn:  # the first round warms up
                rates[name].append(count / (time.process_time() - began))
    middle = {name: float(np.median(values)) for name, values in rates.items()}
    print(f"{len(faces)} faces, {rounds} rounds, median samples per second of processor time on one core")
    for name, rate in middle.items():
        print(f"  {name:<24}{rate:10,.1f}   {1000 / rate:8.2f} ms a sample")
    a, b, c, d = middle.values()
    print(f"b / a = {b / a:.1f} (target 10)    c / d = {c / d:.2f} (target 0.7)")
    print(f"one loader process of one core feeds {b:,.0f} samples/s with labels, {c:,.0f} without")


def _painted(folder: Path, count: int) -> Layout:
    from pipeline.align.run import align
    from pipeline.ingest.run import ingest
    from pipeline.parse.run import parse
    from synthetic import write_dataset

    write_dataset(folder / "portraits", count=count, seed=1, workers=1)
    layout = Layout.at(folder / "shards")
    config = load_config([], [f"data.input={folder / 'portraits'}", "data.name=portraits"])
    for stage in (ingest, align, parse):
        stage(config, layout)
    return layout


def _bytes(faces: Samples) -> list[tuple[bytes, bytes]]:
    wanted = set(faces.keys)
    return [
        (members["jpg"], members["mask.png"])
        for shard in dict.fromkeys(faces.shards)
        for key, members in read_shard(faces.root / shard)
        if key in wanted
    ]


def _decode(face: bytes, mask: bytes) -> int:
    decode_face(face)
    decode_mask(mask)
    return 1


def _batches(config: Config, faces: Samples) -> Iterator[Batch]:
    return load(faces, sequential_batches(faces, BATCH), {"jpg", "mask.png"}, 1, config.stream)


def _with_labels(config: Config, faces: Samples) -> int:
    model = PretrainModel(config.network, config.pretrain)
    return sum(
        len(model.prepare(batch, number, 0).crops.patches)
        for number, batch in enumerate(_batches(config, faces))
    )


def _enlarged(face: bytes, mask: bytes) -> tuple[bytes, bytes]:
    """The same pair as files of 512 pixels, which is what the published code reads."""
    side = (FACE_SIDE, FACE_SIDE)
    large = cv2.resize(decode_face(face), side, interpolation=cv2.INTER_LINEAR)
    classes = cv2.resize(decode_mask(mask), side, interpolation=cv2.INTER_NEAREST)
    return encode_face(large.astype(np.uint8)), encode_mask(classes.astype(np.uint8))


def _published(pairs: list[tuple[bytes, bytes]]) -> int:
    for face, mask in pairs:
        image = Image.open(io.BytesIO(face)).convert("RGB")
        labels = Image.open(io.BytesIO(mask))
        left, top = (random.randint(0, FACE_SIDE - INPUT_SIDE) for _ in range(2))
        box = (left, top, left + INPUT_SIDE, top + INPUT_SIDE)
        patch = torch.from_numpy(np.array(image.crop(box), np.float32)).permute(2, 0, 1) / 255
        target: Any = torch.from_numpy(np.array(labels.crop(box)))
        counts = [int(sum(sum(target == part))) for part in range(NUM_CLASSES)]
        present = sorted(range(NUM_CLASSES), key=counts.__getitem__, reverse=True)[:9]
        parts = torch.zeros(NUM_CLASSES)
        parts[[part for part in present if counts[part]]] = 1
        _published_tiles(image, np.array(labels))
        assert patch.shape[-1] == INPUT_SIDE
    return len(pairs)


def _published_tiles(image: Image.Image, labels: NDArray[np.uint8]) -> torch.Tensor:
    side, tiles = FACE_SIDE // 3, []
    turned = random.randrange(9)
    for place in range(9):
        top, left = place // 3 * side, place % 3 * side
        y, x = (random.randint(0, side - TILE_CROP) for _ in range(2))
        tile = image.crop((left + x, top + y, left + x + TILE_CROP, top + y + TILE_CROP))
        tile = tile.resize((INPUT_SIDE, INPUT_SIDE), Image.Resampling.BILINEAR)
        values = np.clip(np.array(tile, np.float32) + np.random.randint(-2, 3, (1, 1, 3)), 0, 255)
        pixels = torch.from_numpy(values).permute(2, 0, 1) / 255
        mean, deviation = pixels.mean((1, 2), keepdim=True), pixels.std((1, 2), keepdim=True)
        pixels = (pixels - mean) / deviation
        if place == turned and labels[top : top + side, left : left + side].sum() >= side * side / 4:
            pixels = pixels.rot90(random.randrange(4), (1, 2))
        tiles.append(pixels)
    return torch.cat(tiles)


if __name__ == "__main__":
    run(main)
