"""``python -m training.predict``: attributes of all faces in photos, from a classifier's file alone.

With ``--shards``, of the faces that the pipeline has aligned and parsed.
"""

import argparse
import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

from common.config import load
from common.errors import UserError
from common.files import replacing
from common.images import Refused
from common.input_files import Tree, photos
from common.layout import Layout, mark_new
from common.progress import progress
from training.engine.device import announce_training
from training.predict.annotate import annotate
from training.predict.output import check_format, face_rows, path_text, refused_row, write_rows
from training.predict.predictor import CENTRAL_SQUARE, Alignment, Predictor
from training.predict.stored import predict_stored

LONGEST_NAME: Final = 200
"""Bytes of a photo's name that the name of its annotated picture repeats."""

EXAMPLES = """\
examples:
  python -m training.predict --checkpoint runs/finetune/pretrained-100%/classifier.pt photo.jpg
  python -m training.predict --checkpoint classifier.pt photos/ --output faces.csv --annotate seen/
  python -m training.predict --checkpoint classifier.pt --shards OUT --output faces.parquet"""


@dataclass(frozen=True)
class Photo:
    """A photo to predict.

    Attributes:
        file: the photo.
        name: its path below the folder of annotated photos.
        refused: why it must not be read, or None.
    """

    file: Path
    name: Path
    refused: Refused | None = None


def photos_in(paths: list[Path]) -> tuple[list[Photo], list[str]]:
    """The photos that are named, and those in folders by ingest's rules; remarks about other files there.

    Raises:
        UserError: there is no photo.
    """
    listed, remarks = dict[Path, Photo](), list[str]()
    for path in paths:
        if path.is_dir():
            files, others = photos(Tree(path))
            remarks += [f"{path_text(path)}: {remark}" for remark in others]
            for file in files:
                name = Path(path.resolve().name) / file.path
                refused = Refused(*file.refused) if file.refused else None
                listed.setdefault(path / file.path, Photo(path / file.path, name, refused))
        else:
            listed.setdefault(path, Photo(path, Path(path.name)))
    if not listed:
        raise UserError(
            f"{', '.join(map(path_text, paths))}: no files here; name photos or folders of photos"
        )
    return list(listed.values()), remarks


def predict(predictor: Predictor, listed: list[Photo], annotated: Path | None) -> list[dict[str, Any]]:
    """The rows of all photos, in order; a photo without a usable face gets a row with the reason.

    Args:
        predictor: the classifier.
        listed: see `photos_in`.
        annotated: folder for annotated images, or None.
    """
    rows: list[dict[str, Any]] = []
    taken: set[Path] = set()
    bar = progress("predict", len(listed), "photos")
    for photo in listed:
        try:
            if photo.refused:
                raise photo.refused
            image = predictor.read(photo.file)
            faces = predictor.predict(image)
        except Refused as refused:
            rows.append(refused_row(photo.file, refused, predictor.attributes))
        except MemoryError:
            too_large = Refused("too-large", "the memory did not suffice for its pixels")
            rows.append(refused_row(photo.file, too_large, predictor.attributes))
        else:
            rows += face_rows(photo.file, faces)
            if annotated:
                path = annotated / photo.name.parent / f"{_shortened(path_text(Path(photo.name.name)))}.jpg"
                with replacing(_unused(path, taken)) as temporary:
                    annotate(image, faces).save(temporary, "JPEG", quality=92)
        bar.update(1)
    bar.close()
    return rows


def _shortened(name: str) -> str:
    """A file name, or the start of a long one with a hash of it, so that suffixes fit into 255 bytes."""
    if len(encoded := name.encode()) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:8]
    return f"{encoded[:LONGEST_NAME].decode(errors='ignore')}-{digest}"


def _unused(path: Path, taken: set[Path]) -> Path:
    """`path`, or the same with a number if photos of several folders share a name."""
    number, unused = 1, path
    while unused in taken:
        number += 1
        unused = path.with_name(f"{path.stem}-{number}.jpg")
    taken.add(unused)
    return unused


def main() -> None:
    """Read the command line, predict, and report which photos were refused."""
    parser = argparse.ArgumentParser(
        description="Predict the attributes of all faces in photos.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("photos", nargs="*", type=Path, metavar="PHOTO_OR_FOLDER")
    parser.add_argument(
        "--shards", metavar="DIR", help="predict the faces in these shards instead, which a probe can, too"
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="a classifier.pt")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help=".csv, .json or .parquet (default: a line per face)"
    )
    parser.add_argument("--annotate", type=Path, metavar="DIR", help="write photos with boxes and attributes")
    parser.add_argument(
        "--thresholds",
        type=Path,
        metavar="FILE",
        help="attributes.json of an evaluation or labels.json of an export (default: the classifier's own, "
        "else those of the evaluation beside it, else 0.5)",
    )
    parser.add_argument(
        "--align",
        choices=get_args(Alignment),
        default="auto",
        help="none: the photos are aligned already, take their central square; detect: a photo without a "
        "face has no prediction (default: auto, detect, but if the classifier was trained on images that "
        "were already aligned, take the central square of a photo without a face)",
    )
    options = parser.parse_args()
    if bool(options.photos) == bool(options.shards):
        raise UserError("name either photos or, with --shards, the faces that the pipeline has parsed")
    config = load()
    if options.shards:
        if not options.output:
            raise UserError("--shards needs --output FILE, a .csv or .parquet")
        if options.annotate or options.align != "auto":
            raise UserError("--annotate and --align are for photos; the faces in shards are aligned already")
        predict_stored(
            config, Layout.at(options.shards), options.checkpoint, options.thresholds, options.output
        )
        return
    if options.output:
        check_format(options.output)
    if options.annotate:
        mark_new(options.annotate, "--annotate")
    listed, remarks = photos_in(options.photos)
    precision, mirrored = config.evaluate.precision, config.evaluate.mirrored
    predictor = Predictor.load(options.checkpoint, options.thresholds, options.align, precision, mirrored)
    announce_training("predict", precision, stream=sys.stderr)
    rows = predict(predictor, listed, options.annotate)
    if options.output:
        write_rows(options.output, rows, predictor.attributes)
    else:
        for row in rows:
            print(_line(row))
    _print_summary(rows, len(listed), predictor)
    for remark in remarks:
        print(f"predict: {remark}", file=sys.stderr)


def _line(row: dict[str, Any]) -> str:
    if row["reason"]:
        return f"{row['photo']}: {row['reason']}: {row['detail']}"
    present = ", ".join(f"{name} {row[name]:.2f}" for name in row["present"]) or "no attribute"
    detail = f" ({row['detail']})" if row["detail"] else ""
    return f"{row['photo']}, face {row['face']}: {present}{detail}"


def _print_summary(rows: list[dict[str, Any]], photos: int, predictor: Predictor) -> None:
    refused = [row for row in rows if row["reason"]]
    thresholds = "0.5" if predictor.thresholds_from != "val" else "from val"
    print(
        f"predict: {len(rows) - len(refused):,} faces in {photos - len(refused):,} photos, "
        f"{len(refused):,} photos without; thresholds {thresholds}",
        file=sys.stderr,
    )
    squares = sum(row["detail"] == CENTRAL_SQUARE for row in rows)
    if squares:
        print(
            f"predict: no face was detected in {squares:,} photos, whose central squares were taken; "
            "--align detect refuses them, --align none detects nowhere",
            file=sys.stderr,
        )
    for row in refused[:10]:
        print(f"  {row['photo']}: {row['reason']}: {row['detail']}", file=sys.stderr)
    if len(refused) > 10:
        print(f"  and {len(refused) - 10:,} more", file=sys.stderr)
