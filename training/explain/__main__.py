"""``python -m training.explain``: where a classifier looks, per attribute, on the average face."""

from pathlib import Path

from common import command
from common.errors import UserError
from common.layout import Layout

EXAMPLES = """\
  python -m training.explain --checkpoint runs/finetune/pretrained-5%/classifier.pt
  python -m training.explain --checkpoint classifier.pt --shards OUT --output OUT/runs/explain --faces 500
  python -m training.explain --checkpoint classifier.pt photo.jpg --output explained"""


def main() -> None:
    """Read the command line and explain one classifier."""
    what = "Show where a classifier looks, averaged over the test faces, or over photos."
    parser = command.parser(what, EXAMPLES, "finished shards")
    add, named = parser.add_argument, "explain what is predicted of these instead of test faces with labels"
    add("photos", nargs="*", type=Path, metavar="PHOTO_OR_FOLDER", help=named)
    add("--checkpoint", type=Path, required=True, metavar="FILE", help="classifier.pt")
    add("--output", type=Path, default=Path("runs/explain"), metavar="DIR")
    add("--faces", type=int, default=500, metavar="N", help="at most N of them (default: 500)")
    options = parser.parse_args()
    if options.faces < 1:
        raise UserError(f"--faces {options.faces}: must be at least 1")
    config = command.config_from(options)

    # PyTorch and more, which --help need not wait for.
    from training.explain.explain import explain, faces_of_photos, faces_of_shards
    from training.models.classifier import load_classifier
    from training.predict.predictor import Predictor

    if options.photos:
        predictor = Predictor.load(options.checkpoint, config=config)
        classifier = predictor.classifier
        faces = faces_of_photos(predictor, options.photos, options.faces)
    else:
        classifier, layout = load_classifier(options.checkpoint), Layout.at(options.shards)
        batch_size, stream = config.evaluate.batch_size, config.stream
        faces = faces_of_shards(classifier, layout, options.faces, batch_size, stream)
    explain(classifier, options.checkpoint, faces, options.output)


if __name__ == "__main__":
    command.run(main)
