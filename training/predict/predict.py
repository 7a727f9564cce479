"""``python -m training.predict``: attributes of all faces in photos, by a classifier's file alone."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.command import run
from common.errors import UserError
from common.files import replacing
from common.images import Refused
from common.progress import progress
from training.predict.annotate import annotate
from training.predict.output import check_format, face_rows, refused_row, shown, write_rows
from training.predict.predictor import Face, Predictor

__all__ = ["Face", "Predictor", "Refused", "predict"]

EXAMPLES = """\
examples:
  python -m training.predict --checkpoint runs/finetune/pretrained-100%/classifier.pt photo.jpg
  python -m training.predict --checkpoint classifier.pt photos/ --output faces.csv --annotate seen/"""


def photos_in(places: list[Path]) -> list[tuple[Path, Path]]:
    """(file, its name in the results folder) of each photo: files as named, folders with all below them.

    Hidden files in folders are passed over, and so are links to folders.

    Raises:
        UserError: there is nothing to predict.
    """
    found: dict[Path, Path] = {}
    for place in places:
        if place.is_dir():
            for file in _files(place):
                found.setdefault(file, Path(place.resolve().name) / file.relative_to(place))
        else:
            found.setdefault(place, Path(place.name))
    if not found:
        raise UserError(
            f"{', '.join(map(shown, places))}: no files in there; name photos or folders of photos"
        )
    return list(found.items())


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
    """The rows of all photos, in order; one that has no usable face gets a row with the reason.

    Args:
        predictor: the classifier.
        photos: (file, its name in `annotated`), see `photos_in`.
        annotated: folder for pictures with boxes, or None.
    """
    rows: list[dict[str, Any]] = []
    taken: set[Path] = set()
    bar = progress("predict", len(photos), "photos")
    for photo, name in photos:
        try:
            picture = predictor.read(photo)
            faces = predictor.predict(picture)
        except Refused as refused:
            rows.append(refused_row(photo, refused, predictor.attributes))
        else:
            rows += face_rows(photo, faces)
            if annotated:
                with replacing(_free(annotated / f"{shown(name)}.jpg", taken)) as temporary:
                    annotate(picture, faces).save(temporary, "JPEG", quality=92)
        bar.update(1)
    bar.close()
    return rows


def _free(place: Path, taken: set[Path]) -> Path:
    """The path itself, or with a number where photos of several folders have one name."""
    number, free = 1, place
    while free in taken:
        number += 1
        free = place.with_name(f"{place.stem}-{number}.jpg")
    taken.add(free)
    return free


def main() -> None:
    """Read the command line, predict, and say what was refused."""
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
        "--detect",
        action="store_true",
        help="find faces although the classifier learnt from pictures that were aligned already",
    )
    options = parser.parse_args()
    if options.output:
        check_format(options.output)
    photos = photos_in(options.photos)
    predictor = Predictor.load(options.checkpoint, options.thresholds, options.detect)
    if predictor.recipe.align.mode == "none":
        print(
            "predict: this classifier learnt from pictures that were aligned already, so the central square "
            "of each photo is taken as its one face; --detect finds faces instead",
            file=sys.stderr,
        )
    rows = predict(predictor, photos, options.annotate)
    if options.output:
        write_rows(options.output, rows, predictor.attributes)
    else:
        for row in rows:
            print(_line(row))
    _say(rows, len(photos), predictor)


def _line(row: dict[str, Any]) -> str:
    if row["reason"]:
        return f"{row['photo']}: {row['reason']}: {row['detail']}"
    present = ", ".join(f"{name} {row[name]:.2f}" for name in row["present"]) or "no attribute"
    return f"{row['photo']}, face {row['face']}: {present}"


def _say(rows: list[dict[str, Any]], photos: int, predictor: Predictor) -> None:
    refused = [row for row in rows if row["reason"]]
    thresholds = "0.5" if predictor.thresholds_from != "val" else "from val"
    print(
        f"predict: {len(rows) - len(refused):,} faces in {photos - len(refused):,} photos, "
        f"{len(refused):,} photos without; thresholds {thresholds}",
        file=sys.stderr,
    )
    for row in refused[:10]:
        print(f"  {row['photo']}: {row['reason']}: {row['detail']}", file=sys.stderr)
    if len(refused) > 10:
        print(f"  and {len(refused) - 10:,} more", file=sys.stderr)


if __name__ == "__main__":
    run(main)
