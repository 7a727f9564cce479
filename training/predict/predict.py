"""Which photos are predicted, and the rows and annotated photos that come of it."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from common.errors import UserError
from common.files import disk_errors, replacing
from common.freshness import fingerprint
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


class KeptRows:
    """The rows of photos that are done, in a file that an interrupted run leaves to the next one.

    A line is a JSON list: what the rows were made from, and the rows of one photo. Lines that were made from
    anything else are not used, such as those of a photo that has changed since.

    Args:
        file: of the rows; None: nothing is kept.
        made_from: what all rows depend on, JSON values.
    """

    def __init__(self, file: Path | None, made_from: dict[str, Any]) -> None:
        self._file, self._made_from = file, fingerprint(made_from)
        self._kept: dict[str, list[dict[str, Any]]] = {}
        text = file.read_text(encoding="utf-8") if file and file.is_file() else ""
        for line in text.splitlines():
            with suppress(ValueError):  # the last one may be part of a line
                made_from_then, rows = json.loads(line)
                self._kept[made_from_then] = rows
        if file and text and not text.endswith("\n"):
            self._append("\n")

    def of(self, photo: Photo, rows: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        """The rows of a photo: those that are kept, or what `rows` gives, which is kept from then on."""
        try:
            status = photo.file.stat()
        except (OSError, ValueError):  # a missing file, or a name with a null byte
            return rows()
        made_from = fingerprint(self._made_from, path_text(photo.file), status.st_size, status.st_mtime_ns)
        if made_from not in self._kept:
            self._kept[made_from] = rows()
            self._append(json.dumps([made_from, self._kept[made_from]]) + "\n")
        return self._kept[made_from]

    def _append(self, text: str) -> None:
        if self._file:
            with disk_errors(self._file), self._file.open("a", encoding="utf-8") as stream:
                stream.write(text)

    def delete(self) -> None:
        """Delete the file, as the rows are in their table."""
        if self._file:
            self._file.unlink(missing_ok=True)


def predict(
    predictor: Predictor, listed: list[Photo], annotated: Path | None, kept: KeptRows | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of all photos, in order; a photo without a usable face gets a row with the reason.

    Args:
        predictor: the classifier.
        listed: see `photos_in`.
        annotated: folder for annotated images, or None.
        kept: rows of an earlier run, and where those of this one are kept.
    """
    kept = kept or KeptRows(None, {})
    used: set[Path] = set()
    bar = progress("predict", len(listed), "photos")
    for photo in listed:
        picture = None if annotated is None else _unused(annotated / photo.name, used)
        yield from kept.of(photo, partial(_rows, predictor, photo, picture))
        bar.update(1)
    bar.close()


def _rows(predictor: Predictor, photo: Photo, annotated: Path | None) -> list[dict[str, Any]]:
    """The rows of a photo, whose annotated picture is written to `annotated`."""
    try:
        if photo.refused:
            raise photo.refused
        image = predictor.read(photo.file)
        faces = predictor.predict(image)
    except Refused as refused:
        return [refused_row(photo.file, refused)]
    except MemoryError:
        return [refused_row(photo.file, Refused("too-large", "the memory did not suffice for its pixels"))]
    if annotated:
        with replacing(annotated) as temporary:
            annotate(image, faces).save(temporary, "JPEG", quality=92)
    return face_rows(photo.file, faces)


def _unused(photo: Path, used: set[Path]) -> Path:
    """The path of an annotated photo, with a number if photos of several folders share a name.

    Of a long name its start and a hash of it, so that suffixes fit into 255 bytes.
    """
    name = path_text(Path(photo.name))
    if len(encoded := name.encode()) > LONGEST_NAME:
        digest = hashlib.sha256(encoded).hexdigest()[:8]
        name = f"{encoded[:LONGEST_NAME].decode(errors='ignore')}-{digest}"
    number, path = 1, _named(photo, f"{name}.jpg")
    while path in used:
        number += 1
        path = _named(photo, f"{name}-{number}.jpg")
    used.add(path)
    return path


def _named(photo: Path, name: str) -> Path:
    return photo.with_name(os.fsdecode(name.encode()))  # in UTF-8 whatever the locale
