"""``python -m training.predict``: attributes of all faces in photos, from a classifier's file alone.

With ``--shards``, of the faces that the pipeline has aligned and parsed.
"""

import sys
from pathlib import Path
from typing import Any

from common import command
from common.errors import UserError
from common.freshness import code_hash
from common.layout import Layout, mark_new

EXAMPLES = """\
  python -m training.predict --checkpoint runs/finetune/pretrained-100%/classifier.pt photo.jpg
  python -m training.predict --checkpoint classifier.pt photos/ --output faces.csv --annotate seen/
  python -m training.predict --checkpoint region_probe-5%/classifier.pt photos/ --workers 2
  python -m training.predict --checkpoint classifier.pt --shards OUT --output faces.parquet"""


def main() -> None:
    """Read the command line, predict, and report which photos were refused."""
    parser = command.parser("Predict the attributes of all faces in photos.", EXAMPLES)
    add = parser.add_argument
    add("photos", nargs="*", type=Path, metavar="PHOTO_OR_FOLDER")
    parsed = "predict faces in these shards instead, which are aligned and parsed already"
    add("--shards", metavar="DIR", help=parsed)
    add("--checkpoint", type=Path, required=True, metavar="FILE", help="a classifier.pt")
    add("--output", type=Path, metavar="FILE", help=".csv, .json or .parquet (default: a line per face)")
    add("--annotate", type=Path, metavar="DIR", help="write photos with boxes and attributes")
    add(
        "--thresholds",
        type=Path,
        metavar="FILE",
        help="which probability makes an attribute present: thresholds.json of an evaluation, for the best "
        "balanced accuracy, or config.json of an export (default: 0.5)",
    )
    add(
        "--align",
        choices=("auto", "detect", "none"),
        default="auto",
        help="none: the photos are aligned already, take their central square; detect: a photo without a "
        "face has no prediction (default: auto, detect, but if the classifier was trained on images that "
        "were already aligned, take the central square of a photo without a face)",
    )
    add("--workers", type=int, default=1, metavar="N", help="processes that share the photos (default: 1)")
    add(
        "--error",
        type=_share,
        metavar="SHARE",
        help="leave predictions unsure so that at most this share of the others is wrong, such as 5%%; for "
        "classifiers of training.fit",
    )
    options = parser.parse_args()
    if options.error and (options.shards or options.thresholds):
        raise UserError("--error chooses thresholds itself, for photos; leave --shards and --thresholds out")
    if options.workers < 1:
        raise UserError("--workers must be 1 or more")
    if bool(options.photos) == bool(options.shards):
        raise UserError("name either photos or, with --shards, the faces that the pipeline has parsed")
    config = command.config_from(options)

    # PyTorch and more, which --help need not wait for.
    from common.fork_server import start_fork_server
    from training.engine.device import announce_training
    from training.evaluate.thresholds import DEFAULT, Sureness
    from training.predict.output import FORMATS, KeptRows, face_table, write_table
    from training.predict.predict import photos_in, predict, predict_stored
    from training.predict.predictor import CENTRAL_SQUARE, Predictor

    if options.output and options.output.suffix.lower() not in FORMATS:
        raise UserError(f"{options.output}: the name must end in one of {', '.join(FORMATS)}, the format")
    if options.shards:
        if not options.output:
            raise UserError("--shards needs --output FILE, a .csv, .json or .parquet")
        if options.annotate or options.align != "auto" or options.workers > 1:
            raise UserError("--annotate, --align and --workers are for photos, not for faces in shards")
        stored = (Layout.at(options.shards), options.checkpoint, options.thresholds, options.output)
        try:
            predict_stored(config, *stored)
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt("faces in shards are predicted anew by the next run") from stop
        return
    if options.annotate:
        mark_new(options.annotate, "--annotate")
    listed, remarks = photos_in(options.photos)
    if options.workers > 1:
        start_fork_server("training.predict.predict", "facexlib.detection")
    precision, mirrored = config.trainer.precision, config.evaluate.mirrored
    chosen = (options.checkpoint, options.thresholds, options.align, precision, mirrored)
    predictor = Predictor.load(*chosen, config)
    if options.error:
        predictor.sureness = Sureness.of(predictor.classifier, options.error)
    announce_training("predict", precision, options.workers, sys.stderr)
    made_from = {
        "classifier": [predictor.classifier.identity, predictor.thresholds],
        "code": code_hash("training.predict.predict"),
        "options": [options.align, precision, mirrored, str(options.annotate), options.error],
    }
    file = options.output.with_name(f".{options.output.name}.rows") if options.output else None
    kept, rows = KeptRows(file, made_from), []
    try:
        for row in predict(predictor, listed, options.annotate, options.workers, kept):
            rows.append(row)
            if not options.output:
                print(_line(row), flush=True)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(*[] if options.output else ["nothing is kept without --output"]) from stop
    if options.output:
        write_table(options.output, face_table(rows, predictor.classifier.attributes))
    kept.delete()
    refused = [row for row in rows if row["reason"]]
    decided = f"thresholds {options.thresholds or DEFAULT}"
    if options.error:
        decided = f"{sum(len(row['unsure'] or ()) for row in rows):,} predictions are unsure"
    notices = [
        f"predict: {len(rows) - len(refused):,} faces in {len(listed) - len(refused):,} photos, "
        f"{len(refused):,} photos without; {decided}"
    ]
    if squares := sum(row["detail"] == CENTRAL_SQUARE for row in rows):
        notices.append(
            f"predict: no face was detected in {squares:,} photos, whose central squares were taken; "
            "--align detect refuses them, --align none detects nowhere"
        )
    notices += [f"  {_line(row)}" for row in refused[:10]]
    if len(refused) > 10:
        notices.append(f"  and {len(refused) - 10:,} more")
    print("\n".join([*notices, *(f"predict: {remark}" for remark in remarks)]), file=sys.stderr)


def _share(text: str) -> float:
    value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not 0 < value < 0.5:
        raise ValueError(text)
    return value


def _line(row: dict[str, Any]) -> str:
    if row["reason"]:
        return f"{row['photo']}: {row['reason']}: {row['detail']}"
    present = ", ".join(f"{name} {row[name]:.2f}" for name in row["present"]) or "no attribute"
    present += f"; unsure: {', '.join(row['unsure'])}" if row["unsure"] else ""
    detail = f" ({row['detail']})" if row["detail"] else ""
    return f"{row['photo']}, face {row['face']}: {present}{detail}"


if __name__ == "__main__":
    command.run(main)
