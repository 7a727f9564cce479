"""Which photos are predicted, and the rows and annotated photos that come of it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from common.errors import UserError
from common.files import replacing
from common.images import Refused
from common.input_files import Tree, photos
from common.progress import progress
from training.predict.annotate import annotate
from training.predict.output import face_rows, path_text, refused_row
from training.predict.predictor import Predictor

LONGEST_NAME: Final = 200
"""Bytes of a photo's name that the name of its annotated picture repeats."""


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
    used: set[Path] = set()
    bar = progress("predict", len(listed), "photos")
    for photo in listed:
        try:
            if photo.refused:
                raise photo.refused
            image = predictor.read(photo.file)
            faces = predictor.predict(image)
        except Refused as refused:
            rows.append(refused_row(photo.file, refused))
        except MemoryError:
            too_large = Refused("too-large", "the memory did not suffice for its pixels")
            rows.append(refused_row(photo.file, too_large))
        else:
            rows += face_rows(photo.file, faces)
            if annotated:
                with replacing(_unused(annotated / photo.name, used)) as temporary:
                    annotate(image, faces).save(temporary, "JPEG", quality=92)
        bar.update(1)
    bar.close()
    return rows


def _unused(photo: Path, used: set[Path]) -> Path:
    """The path of an annotated photo, with a number if photos of several folders share a name.

    Of a long name its start and a hash of it, so that suffixes fit into 255 bytes.
    """
    name = path_text(Path(photo.name))
    if len(encoded := name.encode()) > LONGEST_NAME:
        digest = hashlib.sha256(encoded).hexdigest()[:8]
        name = f"{encoded[:LONGEST_NAME].decode(errors='ignore')}-{digest}"
    number, path = 1, photo.with_name(f"{name}.jpg")
    while path in used:
        number += 1
        path = photo.with_name(f"{name}-{number}.jpg")
    used.add(path)
    return path
