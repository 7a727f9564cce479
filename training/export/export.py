"""``python -m training.export``: a classifier for other runtimes, with a model card."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from common.errors import UserError
from common.files import write_text
from common.images import Refused
from common.layout import Layout
from common.pipeline_config import Stream
from training.data.loader import load
from training.data.sampler import sequential_batches
from training.data.samples import read_samples
from training.export.model_card import model_card, read_results
from training.export.onnx import export
from training.predict.predict import photos_in
from training.predict.predictor import Predictor
from training.predict.thresholds import evaluation_folder

FACES: Final = 64
"""On at most so many faces the exported files are compared."""

EXAMPLES = """\
examples:
  python -m training.export --checkpoint runs/finetune/semi-5%/classifier.pt --output exported --shards shards
  python -m training.export --checkpoint classifier.pt --output exported --faces photos/"""


def main() -> None:
    """Read the command line, export, and print the table of files."""
    options = _parser().parse_args()
    thresholds = options.thresholds
    if options.evaluation and not thresholds:
        thresholds = options.evaluation / "attributes.json"
    predictor = Predictor.load(options.checkpoint, thresholds)
    faces = faces_of_shards(options.shards) if options.shards else faces_of_photos(predictor, options.faces)
    side = predictor.recipe.align.size
    if faces.shape[1:] != (side, side, 3):
        raise UserError(
            f"the faces are {faces.shape[1]} pixels wide, but the classifier was trained on {side} pixels; "
            "compare on shards that were aligned to that size"
        )
    rows = export(predictor, faces, options.checkpoint, options.output)
    write_text(options.output / "labels.json", labels_json(predictor))
    results = read_results(options.evaluation or evaluation_folder(options.checkpoint), options.checkpoint)
    card = model_card(predictor, results, rows, len(faces), options.license)
    write_text(options.output / "README.md", card)
    print(tabulate(rows[1:], rows[0], tablefmt="plain", disable_numparse=True))
    print(f"export: {options.output}/ (compared on {len(faces)} faces); README.md is the model card")


def faces_of_shards(shards: str) -> NDArray[np.uint8]:
    """The first test faces of finished shards, or others if there are none, at most `FACES`.

    Returns:
        uint8 (N, S, S, 3).

    Raises:
        UserError: there are no shards, or they hold no samples.
    """
    layout = Layout.at(shards)
    samples = read_samples(layout, ("test",))
    if not len(samples) and not len(samples := read_samples(layout, ("train", "val", "unlabelled"))):
        raise UserError(f"{shards}: the shards hold no samples; name others with --shards")
    samples = samples.take(np.arange(min(FACES, len(samples))))
    stream = Stream(cache=None, cache_gigabytes=1.0, retry_minutes=1.0, max_broken=0)
    (batch,) = load(samples, sequential_batches(samples, FACES), {"jpg"}, 0, stream)
    return batch.images.permute(0, 2, 3, 1).numpy()


def faces_of_photos(predictor: Predictor, paths: Sequence[Path]) -> NDArray[np.uint8]:
    """The aligned faces of photos, at most `FACES`: uint8 (N, S, S, 3).

    Raises:
        UserError: no photo has a face.
    """
    images: list[NDArray[np.uint8]] = []
    for photo in photos_in(list(paths))[0]:
        if photo.refused:
            continue
        try:
            images += [face.image for face in predictor(photo.file)]
        except Refused:
            continue
        if len(images) >= FACES:
            break
    if not images:
        raise UserError(
            f"{', '.join(map(str, paths))}: no photo with a face to compare the exported files on"
        )
    return np.stack(images[:FACES])


def labels_json(predictor: Predictor) -> str:
    """``labels.json``: attributes in the order of the probabilities, thresholds, and how to make a face."""
    side = predictor.recipe.align.size
    content = {
        "attributes": [{"name": name, "threshold": value} for name, value in predictor.thresholds.items()],
        "thresholds_from": predictor.thresholds_from,
        "input": {"name": "faces", "type": "uint8", "shape": ["batch", side, side, 3], "channels": "RGB"},
        **predictor.metadata,
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Export a classifier as ONNX and torch.export files, with a model card.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="a classifier.pt")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--shards", metavar="DIR", help="compare on faces of these shards")
    source.add_argument(
        "--faces", type=Path, nargs="+", metavar="PHOTO", help="compare on faces of these photos"
    )
    parser.add_argument(
        "--evaluation", type=Path, metavar="DIR", help="folder of metrics.json and attributes.json"
    )
    parser.add_argument("--thresholds", type=Path, metavar="FILE", help="attributes.json of an evaluation")
    parser.add_argument(
        "--license", default="other", metavar="NAME", help="licence of the weights, for the model card"
    )
    return parser
