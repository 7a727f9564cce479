"""Adapter for WebDataset tars: the images in them become sources ``shard.tar::member``.

The input is one uncompressed ``.tar``, or a folder with tars directly in it. Members with the same
name up to the first dot are one sample. Its images are the members with the extension jpg, jpeg,
png or webp; in a sample without such, those whose last extension is one of these (``IMG.2020.jpg``,
but not the ``KEY.mask.png`` beside a ``KEY.jpg``). Labels are read from two other members of the
sample, and nothing else is decoded, never with pickle:

- ``KEY.json``: an object with optional ``attributes`` ({name: label}, as this project's own shards
  have them; notation as in a table), ``identity`` and ``split``;
- ``KEY.cls``: a class number n in ASCII, which becomes the yes/no attribute ``class_n``.

Without a ``split`` the tar's name decides, if it starts with train, val or test.
"""

import json
import os
import re
import tarfile
from dataclasses import dataclass, field
from typing import IO, Final

from common.errors import UserError
from common.storage import Address, is_file
from pipeline.ingest.files import Refusal, folder_of, list_files
from pipeline.ingest.labels import Spelling, interpret, read_spelling
from pipeline.ingest.listing import OFFICIAL_SPLITS, Listing, Source
from pipeline.source import MEMBER, open_file

IMAGES: Final = ("jpg", "jpeg", "png", "webp")
MOST_CLASSES: Final = 256
LARGEST_LABEL: Final = 1 << 20
"""Bytes; a larger .json or .cls is not a label."""

_SPLIT: Final = re.compile(r"(train|val|test)(?![a-z])")


@dataclass
class _Sample:
    split: str | None
    identity: str | None = None
    images: list[tuple[str, Refusal | None]] = field(default_factory=list)
    dotted: list[tuple[str, Refusal | None]] = field(default_factory=list)
    labels: dict[str, Spelling] = field(default_factory=dict)
    number: int | None = None


def recognised(path: Address) -> bool:
    """Whether `path` is a tar, or a folder with tars and no image directly in it."""
    if is_file(path):
        return path.suffix.lower() == ".tar"
    suffixes = {entry.suffix.lower() for entry in path.iterdir()}
    return ".tar" in suffixes and not any(f".{image}" in suffixes for image in IMAGES)


def read(path: Address) -> Listing:
    """List the images in all tars.

    Raises:
        UserError: a label is malformed; the message names tar and member.
    """
    root = folder_of(path)
    tars = [file for file in list_files(root) if file.path.endswith(".tar") and "/" not in file.path]
    if is_file(path):
        tars = [file for file in tars if file.path == path.name]
    samples: list[_Sample] = []
    sources: list[Source] = []
    for tar in tars:
        refused = tar.refused
        if not refused:
            in_tar: dict[str, _Sample] = {}
            try:
                with open_file(root, tar.path) as stream:
                    _read_tar(tar.path, stream, in_tar)
            except tarfile.TarError as error:
                refused = ("truncated", f"the tar is damaged: {error}")
            samples.extend(in_tar.values())
        if refused:
            sources.append(Source(tar.path, refused=refused))
    _number_classes(path, samples)
    names = tuple(dict.fromkeys(name for sample in samples for name in sample.labels))
    spellings = [
        tuple(sample.labels.get(name, Spelling.UNKNOWN) for name in names) if sample.labels else None
        for sample in samples
    ]
    for sample, attributes in zip(samples, interpret(spellings), strict=True):
        for name, refused in sample.images or sample.dotted:
            sources.append(Source(name, sample.split, sample.identity, attributes, refused))
    return Listing(sorted(sources, key=lambda source: source.path), names, aligned=False)


def _read_tar(tar: str, stream: IO[bytes], samples: dict[str, _Sample]) -> None:
    """Add the samples of a tar to `samples`, by key; of a damaged tar, those before the damage."""
    split = _SPLIT.match(tar)
    with tarfile.open(fileobj=stream, mode="r:") as archive:
        for entry in archive:
            folder, slash, name = entry.name.rpartition("/")
            stem, _, extension = name.partition(".")
            kind = extension.lower()
            image = kind.rpartition(".")[2] in IMAGES
            if not image and kind not in ("json", "cls"):
                continue
            sample = samples.setdefault(folder + slash + stem, _Sample(split[1] if split else None))
            if image:
                printable = os.fsencode(entry.name).decode("utf-8", "backslashreplace")
                images = sample.images if kind in IMAGES else sample.dotted
                images.append((f"{tar}{MEMBER}{printable}", _refused(entry)))
            elif entry.isfile() and (content := archive.extractfile(entry)):
                where = f"{tar}{MEMBER}{entry.name}"
                (_read_class if kind == "cls" else _read_metadata)(content.read(LARGEST_LABEL), where, sample)


def _refused(entry: tarfile.TarInfo) -> Refusal | None:
    try:
        entry.name.encode("utf-8")
    except UnicodeEncodeError:
        return "bad-name", "the member's name is not UTF-8"
    return None if entry.isfile() else ("not-a-file", "a link, a folder or a device in the tar")


def _read_metadata(data: bytes, where: str, sample: _Sample) -> None:
    try:
        metadata = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON: {error}") from error
    if not isinstance(metadata, dict):
        return
    attributes = metadata.get("attributes") or {}
    if not isinstance(attributes, dict):
        raise UserError(f"{where}: attributes must be an object of name: label")
    for name, value in attributes.items():
        sample.labels[name] = read_spelling(value, f"{where}, {name}")
    if metadata.get("identity") is not None:
        sample.identity = str(metadata["identity"])
    if metadata.get("split") in OFFICIAL_SPLITS:
        sample.split = metadata["split"]


def _read_class(data: bytes, where: str, sample: _Sample) -> None:
    text = data.decode("ascii", "replace").strip()
    if not text.isdecimal():
        raise UserError(f"{where}: a class number was expected, not {text[:60]!r}")
    sample.number = int(text)


def _number_classes(path: Address, samples: list[_Sample]) -> None:
    numbers = sorted({sample.number for sample in samples if sample.number is not None})
    if len(numbers) > MOST_CLASSES:
        raise UserError(f"{path}: {len(numbers)} classes in .cls members, more than {MOST_CLASSES}")
    for sample in samples:
        if sample.number is not None:
            for number in numbers:
                label = Spelling.YES if number == sample.number else Spelling.FALSE
                sample.labels[f"class_{number}"] = label
