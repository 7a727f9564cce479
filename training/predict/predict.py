"""``python -m training.predict``: attributes of all faces in photos, from a classifier's file alone."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from common.errors import UserError
from common.files import replacing
from common.images import Refused
from common.progress import progress
from training.predict.annotate import annotate
from training.predict.output import check_format, face_rows, path_text, refused_row, write_rows
from training.predict.predictor import CENTRAL_SQUARE, Alignment, Predictor

EXAMPLES = """\
examples:
  python -m training.predict --checkpoint runs/finetune/pretrained-100%/classifier.pt photo.jpg
  python -m training.predict --checkpoint classifier.pt photos/ --output faces.csv --annotate seen/"""


def photos_in(paths: list[Path]) -> list[tuple[Path, Path]]:
    """(file, its path below the results folder) of each photo: files, and all files below folders.

    Hidden files in folders and links to folders are skipped.

    Raises:
        UserError: there is no file.
    """
    photos: dict[Path, Path] = {}
    for path in paths:
        if path.is_dir():
            for file in _files(path):
                photos.setdefault(file, Path(path.resolve().name) / file.relative_to(path))
        else:
            photos.setdefault(path, Path(path.name))
    if not photos:
        raise UserError(
            f"{', '.join(map(path_text, paths))}: no files here; name photos or folders of photos"
        )
    return list(photos.items())


def _files(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if not entry.is_symlink():
                yield from _files(entry)
        else:
            yield entry


def predict(
    predictor: Predictor, photos: list[tuple[Path, Path]], annotated: Path | None
) -> list[dict[str, Any]]:
    """The rows of all photos, in order; a photo without a usable face gets a row with the reason.

    Args:
        predictor: the classifier.
        photos: (file, its path below `annotated`), see `photos_in`.
        annotated: folder for annotated images, or None.
    """
    rows: list[dict[str, Any]] = []
    taken: set[Path] = set()
    bar = progress("predict", len(photos), "photos")
    for photo, name in photos:
        try:
            image = predictor.read(photo)
            faces = predictor.predict(image)
        except Refused as refused:
            rows.append(refused_row(photo, refused, predictor.attributes))
        else:
            rows += face_rows(photo, faces)
            if annotated:
                with replacing(_unused(annotated / f"{path_text(name)}.jpg", taken)) as temporary:
                    annotate(image, faces).save(temporary, "JPEG", quality=92)
        bar.update(1)
    bar.close()
    return rows


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
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTO_OR_FOLDER")
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
    if options.output:
        check_format(options.output)
    photos = photos_in(options.photos)
    predictor = Predictor.load(options.checkpoint, options.thresholds, options.align)
    rows = predict(predictor, photos, options.annotate)
    if options.output:
        write_rows(options.output, rows, predictor.attributes)
    else:
        for row in rows:
            print(_line(row))
    _print_summary(rows, len(photos), predictor)


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
