"""``python -m training.export``: a classifier for other runtimes, with a model card."""

from pathlib import Path
from typing import Any

from tabulate import tabulate

from common import command
from common.errors import UserError
from common.files import write_text

EXAMPLES = """\
  python -m training.export --checkpoint runs/finetune/NAME/classifier.pt --output exported --shards OUT
  python -m training.export --checkpoint classifier.pt --hub-folder hub --faces photos/"""


def main() -> None:
    """Read the command line, export, and print the table of files."""
    what = "Export a classifier for ONNX Runtime, with model card; a probe with the parser and a script."
    parser = command.parser(what, EXAMPLES)
    folder: dict[str, Any] = {"type": Path, "metavar": "DIR"}
    file: dict[str, Any] = {"type": Path, "metavar": "FILE"}
    add, hub = parser.add_argument, "laid out as a repository of the Hugging Face hub; nothing is uploaded"
    add("--checkpoint", required=True, **file, help="a classifier.pt")
    add("--output", "--hub-folder", required=True, **folder, help=hub)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--shards", metavar="DIR", help="compare on faces of these shards")
    photos = "compare on faces of these photos"
    source.add_argument("--faces", type=Path, nargs="+", metavar="PHOTO", help=photos)
    add("--evaluation", **folder, help="folder of an evaluation (default: that of training.run)")
    add("--thresholds", **file, help="thresholds.json of an evaluation, or config.json (default: 0.5)")
    add("--license", default="other", metavar="NAME", help="licence of the weights, for the model card")
    options = parser.parse_args()
    config, checkpoint, output = command.config_from(options), options.checkpoint, options.output

    # PyTorch and more, which --help need not wait for.
    from training.export import onnx
    from training.export.model_card import labels_text, model_card, read_results
    from training.models.probe import Probe
    from training.predict.predictor import Predictor, find_parser_of

    predictor = Predictor.load(checkpoint, options.thresholds, config=config)
    classifier, side = predictor.classifier, predictor.recipe.align.size
    shards = options.shards
    faces = onnx.faces_of_shards(shards, config) if shards else onnx.faces_of_photos(predictor, options.faces)
    if faces.shape[1:] != (side, side, 3):
        raise UserError(
            f"the faces are {faces.shape[1]} pixels wide, but the classifier was trained on {side} pixels; "
            "compare on shards that were aligned to that size"
        )
    if isinstance(classifier, Probe):
        parser_file = find_parser_of(classifier.metadata, config)
        labels, batches = labels_text(predictor, onnx.export_networks(parser_file, output)), [1]
        script = onnx.export_probe(classifier, labels, parser_file, side, output)
        forms = {"classifier.pt": predictor.probabilities, **script}
    else:
        network = classifier.require_network(checkpoint, "export")
        labels, batches = labels_text(predictor, None), [1, 32]
        forms = onnx.export_network(network, labels, faces, output)
    rows = onnx.compare(forms, faces, batches, output)
    write_text(output / "config.json", labels)
    evaluation = options.evaluation or checkpoint.absolute().parent.parent.parent / "evaluate"
    results = read_results(evaluation, checkpoint, classifier)
    write_text(output / "README.md", model_card(predictor, results, rows, len(faces), options.license))
    print(tabulate(rows[1:], rows[0], tablefmt="plain", disable_numparse=True))
    print(f"export: {output}/ (compared on {len(faces)} faces); README.md is the model card")


if __name__ == "__main__":
    command.run(main)
