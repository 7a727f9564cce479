"""``python -m training.export``: a classifier for other runtimes, with a model card."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from common import command
from common.config import Config
from common.errors import UserError
from common.files import write_text
from common.images import Refused
from common.layout import Layout
from training.data.loader import load
from training.data.sampler import sequential_batches
from training.data.samples import read_samples
from training.evaluate.thresholds import THRESHOLDS, evaluation_folder
from training.export.model_card import model_card, read_results
from training.export.onnx import export
from training.models.classifier import FILE, save_classifier
from training.predict.predict import photos_in
from training.predict.predictor import Predictor

FACES: Final = 64
"""On at most so many faces the exported files are compared."""

EXAMPLES = """\
  python -m training.export --checkpoint runs/finetune/NAME/classifier.pt --output exported --shards OUT
  python -m training.export --checkpoint classifier.pt --output exported --faces photos/"""


def main() -> None:
    """Read the command line, export, and print the table of files."""
    parser = command.parser(
        "Export a classifier as ONNX and torch.export files, with a model card.", EXAMPLES
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="a classifier.pt")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--shards", metavar="DIR", help="compare on faces of these shards")
    source.add_argument(
        "--faces", type=Path, nargs="+", metavar="PHOTO", help="compare on faces of these photos"
    )
    parser.add_argument(
        "--evaluation",
        type=Path,
        metavar="DIR",
        help="folder of an evaluation (default: that of training.run)",
    )
    parser.add_argument(
        "--thresholds", type=Path, metavar="FILE", help="thresholds.json of an evaluation, or labels.json"
    )
    parser.add_argument(
        "--license", default="other", metavar="NAME", help="licence of the weights, for the model card"
    )
    options = parser.parse_args()
    config, checkpoint, output = command.config_from(options), options.checkpoint, options.output
    thresholds = options.thresholds or (options.evaluation and options.evaluation / THRESHOLDS)
    predictor = Predictor.load(checkpoint, thresholds)
    classifier, side = predictor.classifier, predictor.recipe.align.size
    faces = (
        faces_of_shards(options.shards, config)
        if options.shards
        else faces_of_photos(predictor, options.faces)
    )
    if faces.shape[1:] != (side, side, 3):
        raise UserError(
            f"the faces are {faces.shape[1]} pixels wide, but the classifier was trained on {side} pixels; "
            "compare on shards that were aligned to that size"
        )
    save_classifier(output / FILE, classifier)
    rows = export(classifier.require_network(checkpoint, "export"), faces, output)
    write_text(output / "labels.json", json.dumps(labels(predictor), indent=2, ensure_ascii=False) + "\n")
    results = read_results(options.evaluation or evaluation_folder(checkpoint), checkpoint, classifier)
    write_text(output / "README.md", model_card(predictor, results, rows, len(faces), options.license))
    print(tabulate(rows[1:], rows[0], tablefmt="plain", disable_numparse=True))
    print(f"export: {output}/ (compared on {len(faces)} faces); README.md is the model card")


def faces_of_shards(shards: str, config: Config) -> NDArray[np.uint8]:
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
    (batch,) = load(samples, sequential_batches(samples, FACES), {"jpg"}, 0, config.stream)
    return batch.images.permute(0, 2, 3, 1).numpy()


def faces_of_photos(predictor: Predictor, paths: Sequence[Path]) -> NDArray[np.uint8]:
    """The aligned faces of photos, at most `FACES`: uint8 (N, S, S, 3).

    Raises:
        UserError: no photo has a face.
    """
    images: list[NDArray[np.uint8]] = []
    for photo in photos_in(list(paths))[0]:
        with suppress(Refused):
            if not photo.refused and len(images) < FACES:
                images += [face.image for face in predictor(photo.file)]
    if not images:
        raise UserError(
            f"{', '.join(map(str, paths))}: no photo with a face to compare the exported files on"
        )
    return np.stack(images[:FACES])


def labels(predictor: Predictor) -> dict[str, Any]:
    """``labels.json``: attributes in the order of the probabilities, thresholds, and how to make a face."""
    side, classifier = predictor.recipe.align.size, predictor.classifier
    thresholds = (classifier.thresholds or {}).items()
    return {
        "attributes": [{"name": name, "threshold": value} for name, value in thresholds],
        "thresholds_from": classifier.thresholds_from,
        "classifier": classifier.identity,
        "input": {"name": "faces", "type": "uint8", "shape": ["batch", side, side, 3], "channels": "RGB"},
        **{name: value for name, value in classifier.metadata.items() if name != "config"},
    }


if __name__ == "__main__":
    command.run(main)
