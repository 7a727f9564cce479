"""The sample set on disk, in the official layout of CelebA plus one exact mask per image."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import count as counting
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.progress import progress
from synthetic.attributes import CELEBA_ATTRIBUTES
from synthetic.paint import Portrait, paint_person
from synthetic.person import draw_moment, draw_person
from synthetic.report import README_TITLE, readme

BLOCK: Final = 120
"""Images are handed out to people in blocks of this many, so that no image depends on the set's size."""

PARTITION_SHARES: Final = (0.7, 0.8)
"""Below the first share a person is in train (0), below the second in validation (1), above in test (2)."""

LANDMARK_NAMES: Final = tuple(
    f"{point}_{axis}" for point in ("lefteye", "righteye", "nose", "leftmouth", "rightmouth") for axis in "xy"
)
LARGEST_COUNT: Final = 999_999
"""The most images that six-digit names can tell apart."""

PERSON_STREAM: Final = 1
IMAGE_STREAM: Final = 2
IDENTITY_STREAM: Final = 3


Row = tuple[dict[str, bool], list[int]]
"""One image's rows in the lists: attributes by name and ten landmarks in the official order."""


def image_name(index: int) -> str:
    """Return the official file name of the image with this index, which counts from 0."""
    return f"{index + 1:06d}.jpg"


def draw_identities(count: int, seed: int) -> NDArray[np.int64]:
    """Return who is in each of the first `count` images: identity numbers from 1, int64 (count,).

    A person has 1 to 9 images, scattered over a block of `BLOCK`.
    """
    blocks: list[NDArray[np.int64]] = []
    first = 1
    for block in range(-(-count // BLOCK)):
        rng = np.random.default_rng([seed, IDENTITY_STREAM, block])
        sizes = rng.integers(1, 10, BLOCK)
        people = np.repeat(np.arange(first, first + BLOCK), sizes)[:BLOCK]
        first = int(people[-1]) + 1
        blocks.append(rng.permutation(people))
    return np.concatenate(blocks)[:count] if blocks else np.zeros(0, np.int64)


def partition_of(identity: int, seed: int) -> int:
    """Return a person's partition: 0 train, 1 validation, 2 test.

    Multiples of the golden ratio spread evenly over 0..1, so even small sets have people in every partition.
    """
    golden_ratio = 0.6180339887498949
    position = (identity * golden_ratio + 0.37 * seed) % 1
    return sum(position >= share for share in PARTITION_SHARES)


def paint_portrait(index: int, identity: int, seed: int, wild: bool = False) -> Portrait:
    """Paint image `index` (from 0) of a set, of the person `identity`, a function of the arguments only."""
    person = draw_person(np.random.default_rng([seed, PERSON_STREAM, identity]))
    rng = np.random.default_rng([seed, IMAGE_STREAM, index])
    return paint_person(person, draw_moment(person, rng), rng, wild)


def iterate_portraits(count: int, seed: int, wild: bool = False) -> Iterator[Portrait]:
    """Paint the first `count` images of a set one by one, without writing anything."""
    for index, identity in enumerate(draw_identities(count, seed)):
        yield paint_portrait(index, int(identity), seed, wild)


def write_dataset(
    output: Path | str, count: int, seed: int = 0, wild: bool = False, workers: int | None = None
) -> None:
    """Write a sample set; the bytes depend on `count`, `seed` and `wild` only.

    Args:
        output: folder to create; it may hold an earlier sample set, which is replaced.
        count: number of images, 1 to 999,999.
        seed: number of the set, at least 0.
        wild: write large images to `img_celeba/`, as CelebA does, not aligned ones to `img_align_celeba/`.
        workers: number of processes; None for one per processor. They are spawned, so a script that asks for
            more than one needs the usual `if __name__ == "__main__":`.

    Raises:
        UserError: a number is out of range, or `output` holds something else or cannot be written.
    """
    if not 1 <= count <= LARGEST_COUNT:
        raise UserError(f"--count must be between 1 and {LARGEST_COUNT}, not {count}")
    if seed < 0:
        raise UserError(f"--seed must not be negative, but is {seed}")
    if workers is not None and workers < 1:
        raise UserError(f"--workers must be at least 1, not {workers}")
    root = Path(output)
    try:
        images, masks = _prepare(root, wild)
        (root / "README.md").write_text(readme(count, seed, wild), encoding="utf-8")
        identities = draw_identities(count, seed)
        _remove_stale(images, masks, count)
        job = partial(_write_image, images=images, masks=masks, seed=seed, wild=wild)
        rows: list[Row] = []
        bar = progress("sample", count, "images")
        for row in _run(job, identities, workers or os.cpu_count() or 1):
            rows.append(row)
            bar.update(1)
        bar.close()
        _write_lists(root, identities, rows, seed, wild)
    except BrokenProcessPool as error:
        raise UserError("a painting process was killed; try fewer --workers") from error
    except OSError as error:
        raise UserError(f"cannot write the sample set to {root}: {error.strerror or error}") from error


def _prepare(root: Path, wild: bool) -> tuple[Path, Path]:
    """Create the folders and return those of images and masks; refuse a folder that holds anything else."""
    if root.exists() and not root.is_dir():
        raise UserError(f"{root} is a file; --output must be a folder")
    marker = root / "README.md"
    title = marker.read_text(encoding="utf-8", errors="replace") if marker.is_file() else ""
    if root.exists() and any(root.iterdir()) and not title.startswith(README_TITLE):
        raise UserError(f"{root} is not empty and holds no earlier sample set; choose another --output")
    for name in ("img_align_celeba", "img_celeba"):
        if (name == "img_celeba") != wild and (root / name).is_dir():
            shutil.rmtree(root / name)
    images, masks = root / ("img_celeba" if wild else "img_align_celeba"), root / "masks"
    images.mkdir(parents=True, exist_ok=True)
    masks.mkdir(exist_ok=True)
    return images, masks


def _remove_stale(images: Path, masks: Path, count: int) -> None:
    """Delete what an earlier, larger set left."""
    for folder, suffix in ((images, ".jpg"), (masks, ".png")):
        for path in folder.glob(f"*{suffix}"):
            if not path.stem.isdigit() or not 1 <= int(path.stem) <= count:
                path.unlink()
    for path in images.parent.glob("list_landmarks_*.txt"):
        path.unlink()


def _run(job: Callable[[int, int], Row], identities: NDArray[np.int64], workers: int) -> Iterator[Row]:
    """Yield the rows in order, painted by `workers` processes."""
    people = identities.tolist()
    if workers == 1 or len(people) < 8:
        yield from map(job, counting(), people)
        return
    # A forked child would inherit OpenCV's and other libraries' thread pools without their threads, and hang.
    fresh = get_context("spawn")
    size = min(workers, len(people))
    with ProcessPoolExecutor(size, fresh, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        yield from pool.map(job, range(len(people)), people, chunksize=8)


def _write_image(index: int, identity: int, images: Path, masks: Path, seed: int, wild: bool) -> Row:
    portrait = paint_portrait(index, identity, seed, wild)
    quality = int(np.random.default_rng([seed, IMAGE_STREAM, index, 1]).integers(78, 96))
    name = image_name(index)
    (images / name).write_bytes(encode_jpeg(portrait.image, quality))
    encoded = cv2.imencode(".png", portrait.mask, [cv2.IMWRITE_PNG_COMPRESSION, 6])[1]
    (masks / name).with_suffix(".png").write_bytes(encoded.tobytes())
    return portrait.attributes, np.rint(portrait.landmarks).astype(np.int64).ravel().tolist()


def encode_jpeg(image: NDArray[np.uint8], quality: int) -> bytes:
    """Return a uint8 RGB image as JPEG bytes; `quality` is 0..100."""
    pixels = np.ascontiguousarray(image[:, :, ::-1])
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def _write_lists(root: Path, identities: NDArray[np.int64], rows: list[Row], seed: int, wild: bool) -> None:
    """Write the four text files of the official layout."""

    def write(name: str, cells: Iterable[object], columns: Sequence[str] = ()) -> None:
        head = [str(len(rows)), " ".join(columns) + " "] if columns else []
        lines = [*head, *(f"{image_name(index)} {cell}" for index, cell in enumerate(cells))]
        (root / name).write_text("\n".join(lines) + "\n", encoding="ascii", newline="\n")

    signs = (" ".join(" 1" if row[name] else "-1" for name in CELEBA_ATTRIBUTES) for row, _ in rows)
    write("list_attr_celeba.txt", signs, CELEBA_ATTRIBUTES)
    write("identity_CelebA.txt", identities.tolist())
    write("list_eval_partition.txt", (partition_of(person, seed) for person in identities.tolist()))
    landmarks = "list_landmarks_celeba.txt" if wild else "list_landmarks_align_celeba.txt"
    write(landmarks, (" ".join(f"{value:3d}" for value in points) for _, points in rows), LANDMARK_NAMES)
