"""How real the portraits look to real models; run `python -m synthetic.measure --help`.

RetinaFace looks for the face and its landmarks, and facexlib's BiSeNet parses it; both are compared with what
the painter knows. Images are compressed to JPEG first, as in the set on disk. Needs torch, facexlib and
their weights, which nothing else in this package does.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from common.classes import CLASSES, FLIP_PAIRS, NUM_CLASSES
from synthetic.dataset import draw_identities, encode_jpeg, paint_portrait
from synthetic.geometry import ALIGNED_HEIGHT, ALIGNED_WIDTH, Bytes, Points
from synthetic.paint import Portrait

WEIGHT_FILES = ("detection_mobilenet0.25_Final.pth", "parsing_bisenet.pth")
THRESHOLD = 0.97
PARSER_SIZE = 512
CENTRE = slice((ALIGNED_HEIGHT - ALIGNED_WIDTH) // 2, (ALIGNED_HEIGHT + ALIGNED_WIDTH) // 2)
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


@dataclass
class Tally:
    """Running sums over images.

    Attributes:
        faces: number of faces detected in each image.
        landmark_errors: mean distance of the five landmarks over the true eye distance, per detected face.
        confusion: int64 (19, 19), true class by parsed class, in pixels.
        seconds: processor time spent painting and compressing.
    """

    faces: list[int] = field(default_factory=list)
    landmark_errors: list[float] = field(default_factory=list)
    confusion: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)
    )
    seconds: float = 0.0


def class_f1(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return F1 = 2 TP / (2 TP + FP + FN) per class over all pixels, float64 (n,); 0 where undefined."""
    hits = np.diag(confusion)
    return 2 * hits / np.maximum(confusion.sum(axis=0) + confusion.sum(axis=1), 1)


def landmark_error(detected: Points, true: Points) -> float:
    """Return the mean distance of landmarks (5, 2) over the true distance between the eyes."""
    distance = np.hypot(*(true[1] - true[0]))
    return float(np.mean(np.hypot(*(detected - true).T)) / distance)


def parse(parser: Any, image: Bytes) -> Bytes:
    """Return BiSeNet's classes of a square uint8 RGB image, at the image's own size, uint8."""
    import torch

    large = cv2.resize(image, (PARSER_SIZE, PARSER_SIZE), interpolation=cv2.INTER_CUBIC)
    scaled = (large.astype(np.float32) / 255 - IMAGENET_MEAN) / IMAGENET_DEVIATION
    with torch.inference_mode():
        logits = parser(torch.from_numpy(scaled.transpose(2, 0, 1)[None]))[0]
    classes = logits.argmax(1)[0].numpy().astype(np.uint8)
    size = (image.shape[1], image.shape[0])
    return cv2.resize(classes, size, interpolation=cv2.INTER_NEAREST).astype(np.uint8, copy=False)


def measure(weights: str, count: int, seed: int, wild: bool = False) -> Tally:
    """Paint `count` images and show them to the models; wild images are only detected, not parsed."""
    import torch
    from facexlib.detection import init_detection_model
    from facexlib.parsing import init_parsing_model

    torch.set_num_threads(1)
    detector = init_detection_model("retinaface_mobile0.25", device="cpu", model_rootpath=weights)
    parser = init_parsing_model("bisenet", device="cpu", model_rootpath=weights)
    tally = Tally()
    for index, identity in enumerate(draw_identities(count, seed)):
        start = time.process_time()
        portrait = paint_portrait(index, int(identity), seed, wild)
        compressed = np.frombuffer(encode_jpeg(portrait.image, 87), np.uint8)
        tally.seconds += time.process_time() - start
        add_image(
            tally, portrait, cv2.imdecode(compressed, cv2.IMREAD_COLOR), detector, None if wild else parser
        )
    return tally


def add_image(tally: Tally, portrait: Portrait, bgr: Any, detector: Any, parser: Any) -> None:
    """Show one image, uint8 BGR as decoded from its file, to the models and add the results."""
    import torch

    with torch.inference_mode():
        faces = detector.detect_faces(bgr, conf_threshold=THRESHOLD)
    tally.faces.append(len(faces))
    if len(faces) == 1:
        tally.landmark_errors.append(landmark_error(faces[0][5:15].reshape(5, 2), portrait.landmarks))
    if parser is not None:
        parsed = parse(parser, np.ascontiguousarray(bgr[CENTRE, :, ::-1]))
        pairs = portrait.mask[CENTRE].ravel().astype(np.int64) * NUM_CLASSES + parsed.ravel()
        tally.confusion += np.bincount(pairs, minlength=NUM_CLASSES**2).reshape(NUM_CLASSES, NUM_CLASSES)


def _paired(confusion: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the confusion of 16 classes in which left and right brows, eyes and ears are one."""
    merged = confusion.copy()
    twins = [CLASSES.index(right) for _, right in FLIP_PAIRS]
    for left, right in FLIP_PAIRS:
        merged[CLASSES.index(left)] += merged[CLASSES.index(right)]
        merged[:, CLASSES.index(left)] += merged[:, CLASSES.index(right)]
    return np.delete(np.delete(merged, twins, axis=0), twins, axis=1)


def table(tally: Tally) -> str:
    """Return the figures as lines of text."""
    faces = np.array(tally.faces)
    lines = [
        f"images                                  {len(faces)}",
        f"painted and compressed per core second  {len(faces) / tally.seconds:.1f}",
        f"exactly one face detected               {100 * np.mean(faces == 1):.1f} %  "
        f"(none: {np.sum(faces == 0)}, several: {np.sum(faces > 1)})",
        f"mean landmark error / eye distance      {100 * np.mean(tally.landmark_errors or [1.0]):.2f} %",
    ]
    if tally.confusion.sum():
        f1 = class_f1(tally.confusion)
        lines.append(f"mean F1 of the 18 face regions          {f1[1:].mean():.3f}")
        lines += [f"  F1 {name:35s} {value:.3f}" for name, value in zip(CLASSES, f1, strict=True)]
        lines.append(
            f"mean F1, left and right as one           {class_f1(_paired(tally.confusion))[1:].mean():.3f}"
        )
        pairs = [(CLASSES.index(left), CLASSES.index(right)) for left, right in FLIP_PAIRS]
        wrong = sum(int(tally.confusion[a, b] + tally.confusion[b, a]) for a, b in pairs)
        right = sum(int(tally.confusion[a, a] + tally.confusion[b, b]) for a, b in pairs)
        lines.append(f"left taken for right, of paired regions {100 * wrong / max(1, wrong + right):.1f} %")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m synthetic.measure", description=__doc__)
    parser.add_argument("--weights", required=True, metavar="DIR", help="folder of facexlib's weight files")
    parser.add_argument("--count", type=int, default=500, help="number of images (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="number of the set (default: %(default)s)")
    parser.add_argument("--wild", action="store_true", help="measure detection on wild images")
    options = parser.parse_args(arguments)
    for name in WEIGHT_FILES:
        # Without this check facexlib would download what is missing.
        if not (Path(options.weights) / name).is_file():
            parser.error(f"{options.weights} does not hold {name}")
    if options.count < 1 or options.seed < 0:
        parser.error("--count must be at least 1 and --seed at least 0")
    cv2.setNumThreads(1)
    print(table(measure(options.weights, options.count, options.seed, options.wild)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
