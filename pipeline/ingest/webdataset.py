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

An image whose .json is larger than `LARGEST_LABEL`, sparse or no JSON is refused, because its person and its
split are not known.

Without a ``split`` the word train, val or test in the name of the tar or of its folder decides.
"""

import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Final

from common.errors import UserError
from common.input_files import MOST_KINDS, File, FileTree, Refusal
from common.storage import is_transient, printable
from pipeline.ingest.labels import (
    FALSE,
    RawLabel,
    check_no_split,
    read_identity,
    read_raw_label,
    read_split,
    split_in_name,
)
from pipeline.ingest.listing import Listing, Source
from pipeline.source import MEMBER, open_file, read_headers

IMAGES: Final = ("jpg", "jpeg", "png", "webp")
LABELS: Final = ("json", "cls")
LARGEST_LABEL: Final = 1 << 16  # Bytes; a larger .json or .cls is not a label
MOST_LABELS: Final = 4096  # Different labels of a data set
# First bytes of compressed files.
COMPRESSED: Final = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
SUFFIXES: Final = (".tar", ".tgz", *(f".tar.{kind}" for kind in ("gz", "bz2", "xz", "zst")))
LIKE_LABELS: Final = frozenset(("label", "labels", "class", "classes", "target", "targets", "cls"))


@dataclass
class _Label:
    """What the .json and .cls members of one name say."""

    split: str | None = None
    identity: str | None = None
    labels: dict[str, RawLabel] = field(default_factory=dict)
    number: int | None = None
    refused: Refusal | None = None


_Image = tuple[str, Refusal | None, str | None, _Label]
_Members = dict[str, tuple[Refusal | None, bytes | None]]


def recognised(tree: FileTree) -> bool:
    """Whether an input is a tar, or a folder with tars and no image."""
    return bool(tars(tree)) and (tree.is_file or not tree.images)


def tars(tree: FileTree) -> list[File]:
    """The tars of an input, compressed or not."""
    files = [File(tree.path.name)] if tree.is_file else tree.files
    return [file for file in files if file.path.lower().endswith(SUFFIXES)]


def read(tree: FileTree) -> Listing:
    """List the images in all tars.

    Raises:
        UserError: a tar is compressed, or a label is malformed or in no place where it is read.
    """
    images, labels, unread = list[_Image](), list[_Label](), Counter[str]()
    sources: list[Source] = []
    for tar in tars(tree):
        refused = tar.refused
        if not refused:
            members: _Members = {}
            try:
                with open_file(tree.root, tar.path) as stream:
                    _read_tar(tar.path, stream, members)
            except tarfile.TarError as error:
                refused = ("truncated", f"the tar is damaged: {error}")
            except OSError as error:
                if is_transient(error):
                    raise
                refused = ("unreadable", error.strerror or str(error))
            of_tar = dict[str, _Label]()
            images += _gather(tar.path, members, of_tar, unread)
            labels += of_tar.values()
        if refused:
            sources.append(Source(tar.path, refused=refused))
    _number_classes(tree, labels)
    names = tuple(dict.fromkeys(name for *_, label in images for name in label.labels))
    if len(names) > MOST_LABELS:
        raise UserError(
            f"{tree.path}: {len(names):,} different labels in .json members, over {MOST_LABELS:,}"
        )
    for path, refused, split, label in images:
        raw = tuple(label.labels.get(name) for name in names) if label.labels else None
        sources.append(Source(path, label.split or split, label.identity, raw, refused or label.refused))
    kinds = ", ".join(f"{what} ({count:,})" for what, count in sorted(unread.items())[:MOST_KINDS])
    remarks = (f"not read in the tars: {kinds}",) if kinds else ()
    return Listing(sources, names, False, remarks, raw=True)


def _read_tar(tar: str, stream: IO[bytes], members: _Members) -> None:
    """Add the members of a tar by name, with the bytes of labels; of a damaged one, those before that."""
    head = stream.read(6)
    if kind := next((name for mark, name in COMPRESSED.items() if head.startswith(mark)), None):
        raise UserError(
            f"{tar} is compressed with {kind}, and members are read by position; decompress it first"
        )
    stream.seek(0)
    for entry in read_headers(stream):
        if entry.isdir() or any(part.startswith(".") and part.strip(".") for part in entry.name.split("/")):
            continue
        refused, content = _refused(entry), None
        if entry.name.lower().endswith(LABELS) and not refused:
            if entry.size > LARGEST_LABEL:
                refused = ("bad-label", f"{entry.size:,} bytes, more than {LARGEST_LABEL:,}")
            else:
                stream.seek(entry.offset_data)
                content = stream.read(entry.size)
        members[entry.name] = (refused, content)


def _refused(entry: tarfile.TarInfo) -> Refusal | None:
    try:
        entry.name.encode("utf-8")
    except UnicodeEncodeError:
        return "bad-name", "the member's name is not UTF-8"
    if entry.issparse():
        return "not-a-file", "a sparse file in the tar; pack it again without --sparse"
    return None if entry.isfile() else ("not-a-file", "a link, a folder or a device in the tar")


def _gather(tar: str, members: _Members, labels: dict[str, _Label], unread: Counter[str]) -> Iterator[_Image]:
    """The images of one tar; adds to the `labels` of its samples by name, and to what is not read."""
    images: list[str] = []
    damaged: dict[str, str] = {}
    for name, (refused, content) in members.items():
        stem, _, kind = name.rpartition(".")
        if kind.lower() in IMAGES:
            images.append(name)
        elif kind.lower() in LABELS:
            label = labels.setdefault(stem, _Label())
            where = printable(f"{tar}{MEMBER}{name}")
            if content is not None:
                reading = _read_class if kind.lower() == "cls" else _read_metadata
                unread.update(reading(content, where, label))
            elif refused:
                label.refused = (refused[0], f"{where}: {refused[1]}")
            if label.refused:
                damaged.setdefault(stem, where)
        else:
            unread[f"members .{kind}"] += 1
    plain = {_key(name) for name in images if name.rpartition(".")[0] == _key(name)}
    split = next((split for part in reversed(tar.split("/")) if (split := split_in_name(part))), None)
    used: set[str] = set()
    for name in images:
        key, stem = _key(name), name.rpartition(".")[0]
        if stem != key and key in plain and stem not in labels:
            unread["images beside their sample's photo"] += 1  # masks and the like
            continue
        chosen = stem if stem in labels else key
        used.add(chosen)
        path = printable(f"{tar}{MEMBER}{name}")
        yield path, members[name][0], split, labels.setdefault(chosen, _Label())
    yield from ((damaged[stem], None, split, labels[stem]) for stem in damaged.keys() - used)
    unread.update(["labels without an image"] * len(labels.keys() - used))


def _key(name: str) -> str:
    """A member's name to the first dot of its last part."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _read_metadata(data: bytes, where: str, label: _Label) -> list[str]:
    """Read a JSON member into `label`, or why it cannot be read; gives the keys that are not read."""
    try:
        metadata = json.loads(data)
    except (ValueError, RecursionError) as error:
        label.refused = ("bad-label", f"{where}: not JSON: {error}"[:200])
        return []
    if not isinstance(metadata, dict):
        raise UserError(f'{where}: an object was expected, such as {{"attributes": {{"Smiling": 1}}}}')
    attributes = metadata.pop("attributes", {})
    lost = [
        key
        for key, value in metadata.items()
        if key.lower() in LIKE_LABELS or (isinstance(value, int) and value in (-1, 0, 1))
    ]
    if attributes == {} and lost:
        raise UserError(f"{where}: {', '.join(lost)}: labels are read from an object 'attributes'; move them")
    if not isinstance(attributes or {}, dict):
        raise UserError(f"{where}: attributes must be an object of name: label")
    for name, value in (attributes or {}).items():
        label.labels[name] = read_raw_label(value, where, name)
    label.identity = read_identity(metadata.pop("identity", None))
    label.split = read_split(metadata.pop("split", None), where)
    for key in metadata:
        check_no_split(key, where)
    return [f"JSON key {key}" for key in metadata]


def _read_class(data: bytes, where: str, label: _Label) -> list[str]:
    text = data.decode("ascii", "replace").strip()
    if not text.isdecimal():
        raise UserError(f"{where}: a class number was expected, not {text[:60]!r}")
    label.number = int(text)
    return []


def _number_classes(tree: FileTree, labels: list[_Label]) -> None:
    numbers = sorted({label.number for label in labels if label.number is not None})
    if len(numbers) > 256:
        raise UserError(f"{tree.path}: {len(numbers)} classes in .cls members, more than 256")
    for label in labels:
        for number in numbers if label.number is not None else ():
            label.labels[f"class_{number}"] = 1 if number == label.number else FALSE
