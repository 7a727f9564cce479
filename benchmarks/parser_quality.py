"""``python -m benchmarks.parser_quality DIR``: F1 of the pipeline's parser on CelebAMask-HQ pairs.

DIR holds ``images/NAME.jpg`` and ``masks/NAME.png`` in CelebAMask-HQ's class order. The mean is over
the 18 face regions; each F1 score is computed over the pixels of all images together.
"""

import time
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from benchmarks.processes import run
from common import command
from common.classes import CLASSES, FROM_CELEBAMASK_HQ, NUM_CLASSES
from common.errors import UserError
from common.hardware import hardware
from common.members import decode_face, encode_face
from common.parsing.find_parser import find_parser
from common.parsing.parser import load_parser
from common.progress import progress


def main() -> None:
    """Read the command line, parse all images at each size and print the tables."""
    parser = command.parser(
        "F1 of the parser against CelebAMask-HQ masks, and its milliseconds of CPU per face.",
        "  python -m benchmarks.parser_quality facemasks --limit 200 --sizes 256 384 448",
    )
    parser.add_argument("folder", type=Path, help="holds images/ and masks/")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images")
    parser.add_argument("--sizes", type=int, nargs="+", metavar="N", help="instead of parse.size")
    parser.add_argument("--stored", type=int, metavar="N", help="reduce the faces to N pixels first")
    options = parser.parse_args()
    config, images = command.config_from(options), image_files(options.folder, options.limit)
    rows, by_class = [], {}
    for size in options.sizes or [config.parse.size]:
        file = find_parser(config.parse.model_copy(update={"size": size}), config.weights)
        parse_faces, confusion = load_parser(file), np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)
        seconds, bar = 0.0, progress(f"parser at {size}", len(images), "faces")
        for face, truth in (read_pair(image, options.stored) for image in images):
            started = time.process_time()
            mask = parse_faces(face[None])[0][0]
            seconds += time.process_time() - started
            mask = cv2.resize(mask, truth.shape, interpolation=cv2.INTER_NEAREST).astype(np.uint8)
            confusion += confusion_matrix(truth, mask)
            bar.update(1)
        bar.close()
        by_class[size] = f1_scores(confusion)
        rows.append([size, f"{by_class[size][1:].mean():.3f}", f"{1000 * seconds / len(images):.0f}"])
    heads = ("class", *(f"F1 at {size}" for size in by_class))
    print(tabulate(zip(CLASSES, *by_class.values(), strict=True), heads, floatfmt=".3f"))
    heads = ("size", "mean F1 of 18 regions", "ms of CPU per face")
    print(f"\n{len(images)} faces; {hardware().name}\n{tabulate(rows, heads)}")


def image_files(folder: Path, limit: int | None) -> list[Path]:
    """The first `limit` images of the pairs in `folder`.

    Raises:
        UserError: there is none.
    """
    files = sorted((folder / "images").glob("*.jpg"))[:limit]
    if not files:
        raise UserError(f"{folder}/images holds no JPEG files")
    return files


def read_pair(file: Path, stored: int | None = None) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A face, uint8 RGB (S, S, 3), and its true mask, uint8 (T, T), in facexlib's class order.

    Args:
        file: of the face.
        stored: the side S to which the face is reduced; None: as it is, which is T.

    Raises:
        UserError: the image has no mask.
    """
    mask_file = file.parents[1] / "masks" / f"{file.stem}.png"
    mask = cv2.imread(str(mask_file), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise UserError(f"{file} has no readable mask; put it at {mask_file}")
    face = decode_face(file.read_bytes())
    if stored:
        reduced = cv2.resize(face, (stored, stored), interpolation=cv2.INTER_AREA).astype(np.uint8)
        face = decode_face(encode_face(reduced))
    return face, FROM_CELEBAMASK_HQ[mask]


def confusion_matrix(truth: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Pixels by true and predicted class, int64 (19, 19), of two masks of one shape."""
    cells = truth.astype(np.int64) * NUM_CLASSES + mask
    return np.bincount(cells.ravel(), minlength=NUM_CLASSES**2).reshape(NUM_CLASSES, NUM_CLASSES)


def f1_scores(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """F1 score per class, float64 (19,), of a confusion matrix; 0 for a class without any pixel."""
    return 2 * confusion.diagonal() / np.maximum(confusion.sum(0) + confusion.sum(1), 1)


if __name__ == "__main__":
    run(main)
