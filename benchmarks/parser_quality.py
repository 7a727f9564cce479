"""``python -m benchmarks.parser_quality DIR``: F1 of the pipeline's parser on CelebAMask-HQ pairs.

DIR holds ``images/NAME.jpg`` and ``masks/NAME.png`` in CelebAMask-HQ's class order. The mean is over
the 18 face regions; each F1 score is computed over the pixels of all images together.
"""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.processes import run
from common import command
from common.classes import CLASSES, FROM_CELEBAMASK_HQ, NUM_CLASSES
from common.errors import UserError
from common.members import decode_face
from common.parsing.find_parser import find_parser
from common.parsing.parser import load_parser
from common.progress import progress


def main() -> None:
    """Read the command line, parse all images and print the table."""
    parser = command.parser(
        "F1 of the parser against CelebAMask-HQ masks.",
        "  python -m benchmarks.parser_quality facemasks --limit 200 --set parse.size=512",
    )
    parser.add_argument("folder", type=Path, help="holds images/ and masks/")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images")
    options = parser.parse_args()
    config = command.config_from(options)
    file = find_parser(config.parse, config.weights)
    parse_faces, images = load_parser(file), image_files(options.folder, options.limit)
    confusion = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)
    bar = progress("parser quality", len(images), "faces")
    for face, truth in map(read_pair, images):
        confusion += confusion_matrix(truth, parse_faces(face[None])[0][0])
        bar.update(1)
    bar.close()
    scores = f1_scores(confusion)
    for name, score in zip(CLASSES, scores, strict=True):
        print(f"{name:<12}{score:7.3f}")
    print(f"\nmean F1 of 18 regions at {file.size}: {scores[1:].mean():.3f} over {len(images)} faces")


def image_files(folder: Path, limit: int | None) -> list[Path]:
    """The first `limit` images of the pairs in `folder`.

    Raises:
        UserError: there is none.
    """
    files = sorted((folder / "images").glob("*.jpg"))[:limit]
    if not files:
        raise UserError(f"{folder}/images holds no JPEG files")
    return files


def read_pair(file: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A face, uint8 RGB (S, S, 3), and its true mask, uint8 (S, S), in facexlib's class order.

    Raises:
        UserError: the image has no mask.
    """
    mask_file = file.parents[1] / "masks" / f"{file.stem}.png"
    mask = cv2.imread(str(mask_file), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise UserError(f"{file} has no readable mask; put it at {mask_file}")
    return decode_face(file.read_bytes()), FROM_CELEBAMASK_HQ[mask]


def confusion_matrix(truth: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Pixels by true and predicted class, int64 (19, 19), of two masks of one shape."""
    cells = truth.astype(np.int64) * NUM_CLASSES + mask
    return np.bincount(cells.ravel(), minlength=NUM_CLASSES**2).reshape(NUM_CLASSES, NUM_CLASSES)


def f1_scores(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """F1 score per class, float64 (19,), of a confusion matrix; 0 for a class without any pixel."""
    return 2 * confusion.diagonal() / np.maximum(confusion.sum(0) + confusion.sum(1), 1)


if __name__ == "__main__":
    run(main)
