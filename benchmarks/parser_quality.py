"""``python -m benchmarks.parser_quality DIR``: F1 of the pipeline's parser on CelebAMask-HQ pairs.

DIR holds ``images/NAME.jpg`` and ``masks/NAME.png`` in CelebAMask-HQ's class order. The
mean is over the 18 parts, each F1 counted over the pixels of all pictures together.
"""

from pathlib import Path

import cv2
import numpy as np

from common import command
from common.classes import CLASSES, FROM_CELEBAMASK_HQ, NUM_CLASSES
from common.errors import UserError
from common.progress import progress
from common.shards import decode_face
from pipeline.parse.find_parser import find_parser
from pipeline.parse.parser import load_parser


def main() -> None:
    """Read the command line, parse all pictures and print the table."""
    parser = command.parser(
        "F1 of the parser against CelebAMask-HQ masks.",
        "  python -m benchmarks.parser_quality facemasks --limit 200 --set parse.size=512",
    )
    parser.add_argument("folder", type=Path, help="holds images/ and masks/")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N pictures")
    options = parser.parse_args()
    config = command.config_from(options)
    pictures = sorted((options.folder / "images").glob("*.jpg"))[: options.limit]
    if not pictures:
        raise UserError(f"{options.folder}/images holds no JPEG files")
    file = find_parser(config.parse, config.weights)
    parse_faces = load_parser(file)
    confusion = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)
    bar = progress("parser quality", len(pictures), "faces")
    for picture in pictures:
        truth = cv2.imread(str(options.folder / "masks" / f"{picture.stem}.png"), cv2.IMREAD_GRAYSCALE)
        if truth is None:
            raise UserError(f"{picture} has no readable mask beside it")
        masks, _ = parse_faces(decode_face(picture.read_bytes())[None])
        pair = FROM_CELEBAMASK_HQ[truth].astype(np.int64) * NUM_CLASSES + masks[0]
        confusion += np.bincount(pair.ravel(), minlength=NUM_CLASSES**2).reshape(NUM_CLASSES, NUM_CLASSES)
        bar.update(1)
    bar.close()
    f1 = 2 * confusion.diagonal() / np.maximum(confusion.sum(0) + confusion.sum(1), 1)
    for name, value in zip(CLASSES, f1, strict=True):
        print(f"{name:<12}{value:7.3f}")
    print(f"\nmean F1 of 18 parts at {file.size}: {f1[1:].mean():.3f} over {len(pictures)} faces")


if __name__ == "__main__":
    command.run(main)
