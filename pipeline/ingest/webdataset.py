"""Adapter for WebDataset tars: the images in them become sources ``shard.tar::member``.

The input is one uncompressed ``.tar``, or a folder with tars and no images. Members with the same
name up to the first dot are one sample. Its images are the members with the extension jpg, jpeg,
png or webp; in a sample without such, those whose last extension is one of these (``IMG.2020.jpg``,
but not the ``KEY.mask.png`` beside a ``KEY.jpg``). Of members with one name the last counts, as for
tar itself. Labels are read from two other members, ``IMG.2020.json`` or else ``IMG.json`` for
``IMG.2020.jpg``, and nothing else is decoded, never with pickle:

- ``KEY.json``: an object with optional ``attributes`` ({name: label}, as this project's own shards
  have them; notation as in a table), ``identity`` and ``split``;
- ``KEY.cls``: a class number n in ASCII, which becomes the yes/no attribute ``class_n``.

Without a ``split`` the word train, val or test in the name of the tar or of its folder decides.
"""

import json
import os
import tarfile
from collections import Counter
from dataclasses import dataclass, field
from typing import IO, Any, Final

from common.errors import UserError
from common.input_files import File, Refusal, Tree
from pipeline.ingest.labels import FALSE, Spelling, read_spelling, read_split, split_in_name
from pipeline.ingest.listing import Listing, Source
from pipeline.source import MEMBER, open_file

IMAGES: Final = ("jpg", "jpeg", "png", "webp")
LABELS: Final = ("json", "cls")
MOST_CLASSES: Final = 256
LARGEST_LABEL: Final = 1 << 20
"""Bytes; a larger .json or .cls is not a label."""

COMPRESSED: Final = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
"""First bytes of compressed files."""

SUFFIXES: Final = (".tar", ".tgz", *(f".tar.{kind}" for kind in ("gz", "bz2", "xz", "zst")))
LIKE_LABELS: Final = frozenset(("label", "labels", "class", "classes", "target", "targets", "cls"))


@dataclass
class _Label:
    """What the .json and .cls members of one name say."""

    split: str | None = None
    identity: str | None = None
    labels: dict[str, Spelling] = field(default_factory=dict)
    number: int | None = None


@dataclass
class _Gathered:
    """What all tars hold: images with their labels, and what was not read."""

    images: list[tuple[str, Refusal | None, str | None, _Label]] = field(default_factory=list)
    labels: list[_Label] = field(default_factory=list)
    unread: Counter[str] = field(default_factory=Counter)


def recognised(tree: Tree) -> bool:
    """Whether an input is a tar, or a folder with tars and no image."""
    if tree.is_file:
        return tree.path.name.lower().endswith(SUFFIXES)
    return bool(tars(tree)) and not tree.images


def tars(tree: Tree) -> list[File]:
    """The tars of an input, compressed or not."""
    files = [File(tree.path.name)] if tree.is_file else tree.files
    return [file for file in files if file.path.lower().endswith(SUFFIXES)]


def read(tree: Tree) -> Listing:
    """List the images in all tars.

    Raises:
        UserError: a tar is compressed, or a label is malformed or in no place where labels are read;
            the message names tar and member.
    """
    gathered = _Gathered()
    sources: list[Source] = []
    for tar in tars(tree):
        refused = tar.refused
        if not refused:
            members: dict[str, tuple[Refusal | None, bytes | None]] = {}
            try:
                with open_file(tree.root, tar.path) as stream:
                    _read_tar(tar.path, stream, members)
            except tarfile.TarError as error:
                refused = ("truncated", f"the tar is damaged: {error}")
            _gather(tar.path, members, gathered)
        if refused:
            sources.append(Source(tar.path, refused=refused))
    _number_classes(tree, gathered.labels)
    names = tuple(dict.fromkeys(name for *_, label in gathered.images for name in label.labels))
    for path, refused, split, label in gathered.images:
        spelled = tuple(label.labels.get(name) for name in names) if label.labels else None
        sources.append(Source(path, label.split or split, label.identity, spelled, refused))
    unread = ", ".join(f"{what} ({count:,})" for what, count in sorted(gathered.unread.items()))
    remarks = (f"not read in the tars: {unread}",) if unread else ()
    return Listing(sources, names, False, remarks, spelled=True)


def _read_tar(tar: str, stream: IO[bytes], members: dict[str, tuple[Refusal | None, bytes | None]]) -> None:
    """Add the members of a tar by name, with the bytes of labels; of a damaged one, those before that."""
    head = stream.read(6)
    kind = next((name for mark, name in COMPRESSED.items() if head.startswith(mark)), None)
    if kind:
        raise UserError(
            f"{tar} is compressed with {kind}, and members are read by position; decompress it first"
        )
    stream.seek(0)
    with tarfile.open(fileobj=stream, mode="r:") as archive:
        for entry in archive:
            if entry.isdir() or any(
                part.startswith(".") and part.strip(".") for part in entry.name.split("/")
            ):
                continue
            content = None
            if (
                entry.isfile()
                and entry.name.lower().endswith(LABELS)
                and (file := archive.extractfile(entry))
            ):
                content = file.read(LARGEST_LABEL)
            members[entry.name] = (_refused(entry), content)
        stream.seek(archive.offset)
        while rest := stream.read(1 << 20):
            if rest.strip(b"\0"):
                raise tarfile.ReadError("it goes on after its end, as tars do that were joined with cat")


def _refused(entry: tarfile.TarInfo) -> Refusal | None:
    try:
        entry.name.encode("utf-8")
    except UnicodeEncodeError:
        return "bad-name", "the member's name is not UTF-8"
    return None if entry.isfile() else ("not-a-file", "a link, a folder or a device in the tar")


def _gather(tar: str, members: dict[str, tuple[Refusal | None, bytes | None]], gathered: _Gathered) -> None:
    """Add the images of one tar to what was gathered, with the labels of their samples."""
    labels: dict[str, _Label] = {}
    images: list[str] = []
    for name, (_, content) in members.items():
        stem, _, kind = name.rpartition(".")
        if kind.lower() in IMAGES:
            images.append(name)
        elif kind.lower() in LABELS and content is not None:
            label = labels.setdefault(stem, _Label())
            reading = _read_class if kind.lower() == "cls" else _read_metadata
            gathered.unread.update(reading(content, f"{tar}{MEMBER}{name}", label))
        else:
            gathered.unread[f"members .{kind}"] += 1
    plain = {_key(name) for name in images if name.rpartition(".")[0] == _key(name)}
    split = next((split for part in reversed(tar.split("/")) if (split := split_in_name(part))), None)
    used: set[str] = set()
    for name in images:
        key, stem = _key(name), name.rpartition(".")[0]
        if stem != key and key in plain and stem not in labels:
            gathered.unread["images beside their sample's photo"] += 1  # masks and the like
            continue
        chosen = stem if stem in labels else key
        used.add(chosen)
        printable = os.fsencode(name).decode("utf-8", "backslashreplace")
        gathered.images.append(
            (f"{tar}{MEMBER}{printable}", members[name][0], split, labels.setdefault(chosen, _Label()))
        )
    gathered.labels += labels.values()
    gathered.unread.update(["labels without an image"] * len(labels.keys() - used))


def _key(name: str) -> str:
    """A member's name to the first dot of its last part."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _read_metadata(data: bytes, where: str, label: _Label) -> list[str]:
    """Read a JSON member into `label`; the keys that are not read."""
    try:
        metadata = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON: {error}") from error
    if not isinstance(metadata, dict):
        raise UserError(f'{where}: an object was expected, such as {{"attributes": {{"Smiling": 1}}}}')
    attributes = metadata.pop("attributes", {})
    if attributes == {} and (lost := [key for key, value in metadata.items() if _like_label(key, value)]):
        raise UserError(f"{where}: {', '.join(lost)}: labels are read from an object 'attributes'; move them")
    if not isinstance(attributes or {}, dict):
        raise UserError(f"{where}: attributes must be an object of name: label")
    for name, value in (attributes or {}).items():
        label.labels[name] = read_spelling(value, where, name)
    identity = metadata.pop("identity", None)
    if identity is not None:
        label.identity = str(identity)
    label.split = read_split(metadata.pop("split", None), where)
    return [f"JSON key {key}" for key in metadata]


def _like_label(key: str, value: Any) -> bool:
    return key.lower() in LIKE_LABELS or (isinstance(value, bool | int) and value in (-1, 0, 1))


def _read_class(data: bytes, where: str, label: _Label) -> list[str]:
    text = data.decode("ascii", "replace").strip()
    if not text.isdecimal():
        raise UserError(f"{where}: a class number was expected, not {text[:60]!r}")
    label.number = int(text)
    return []


def _number_classes(tree: Tree, labels: list[_Label]) -> None:
    numbers = sorted({label.number for label in labels if label.number is not None})
    if len(numbers) > MOST_CLASSES:
        raise UserError(f"{tree.path}: {len(numbers)} classes in .cls members, more than {MOST_CLASSES}")
    for label in labels:
        if label.number is not None:
            for number in numbers:
                label.labels[f"class_{number}"] = 1 if number == label.number else FALSE
