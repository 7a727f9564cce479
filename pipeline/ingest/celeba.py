"""Adapter for CelebA, as its archives, Kaggle or torchvision lay it out, and for CelebA-HQ.

The files may lie in any folders of the input; CelebA's names tell what they are. Images are those in
one of the folders `FOLDERS`, or all images if there is no such folder. The attributes are a text file
(count, names, then one row of -1/1 per image; 0 and NaN are unknown) or a CSV with a heading; so
are, where present, the partition (0 train, 1 val, 2 test) and the identities. A row means the image
of its name, whatever its extension, because copies are often PNG.
"""

from collections.abc import Collection, Iterator
from typing import Final

from common.errors import UserError
from common.input_files import File, FileTree, is_image, list_files, stem
from common.storage import Address
from pipeline.ingest.labels import PARTITIONS, Label, read_identity
from pipeline.ingest.listing import Listing, Source
from pipeline.ingest.match import join_rows
from pipeline.ingest.rows import numbered_lines, read_rows

# Folders of images, in the order in which they are preferred, and whether their faces are aligned.
FOLDERS: Final = {
    "img_align_celeba": True,
    "img_align_celeba_png": True,
    "img_celeba": False,
    "CelebA-HQ-img": False,
}

ATTRIBUTES: Final = ("list_attr_celeba.txt", "list_attr_celeba.csv", "CelebAMask-HQ-attribute-anno.txt")
LABELS: Final[dict[str, Label]] = {"-1": 0, "1": 1, "0": None, "nan": None, "NaN": None}


def recognised(tree: FileTree) -> bool:
    """Whether an input holds CelebA's attributes, or a folder or archive of its images."""
    if tree.is_file:
        return False
    packed = any(
        path.rpartition("/")[2].split(".")[0] in FOLDERS for path in (*tree.archives(), *_linked(tree))
    )
    return packed or bool(tree.named(*ATTRIBUTES)) or _folder(tree) is not None


def read(tree: FileTree) -> Listing:
    """List the images, and every label row without one.

    Raises:
        UserError: there is no attribute file, none of its rows has an image, or a label file has a
            row of the wrong width, an unknown value, or two rows for one image.
    """
    attributes = _only(tree, ATTRIBUTES)
    folder = _folder(tree)
    if attributes is None:
        raise UserError(
            f"{tree.path} looks like CelebA but has no {ATTRIBUTES[0]} or .csv, so there would be no labels; "
            "put it there, or use the images without labels: --format folder --align none"
        )
    names, labels, remarks = _read_attributes(tree.root / attributes)
    partition = _read_pairs(tree, "list_eval_partition", PARTITIONS)
    identity = _read_pairs(tree, "identity_CelebA", None)
    images = {file.path: file.refused for file in _images(tree, folder)}
    missing = f"{attributes} has a row for it, but there is no such image"
    sources = [
        Source(path, partition.get(image), read_identity(identity.get(image)), labels.get(image), refused)
        for path, image, refused in join_rows(tree, attributes, labels, images, 1, missing, folder or "")
    ]
    return Listing(sources, names, FOLDERS.get((folder or "").rpartition("/")[2], False), remarks)


def _folder(tree: FileTree) -> str | None:
    """The path of the images' folder: the outermost of the preferred name."""
    for name in FOLDERS:
        for file in tree.files:
            before, inside, _ = f"/{file.path}/".partition(f"/{name}/")
            if inside and (is_image(file.path) or file.refused):
                return f"{before}/{name}".strip("/")
    return None


def _linked(tree: FileTree) -> list[str]:
    return [file.path for file in tree.files if file.refused and file.refused[0].startswith("link")]


def _images(tree: FileTree, folder: str | None) -> list[File]:
    if folder is None:
        return [file for file in tree.files if is_image(file.path)]
    if folder in _linked(tree):
        return list_files(tree.root, folder)
    return [file for file in tree.files if file.path.startswith(f"{folder}/")]


def _only(tree: FileTree, names: tuple[str, ...]) -> str | None:
    paths = tree.named(*names)
    if len(paths) > 1:
        raise UserError(f"{tree.path} has both {paths[0]} and {paths[1]}; keep the one that is meant")
    return paths[0] if paths else None


def _records(file: Address) -> Iterator[tuple[str, list[str]]]:
    if file.suffix.lower() == ".csv":
        return read_rows(file)
    return ((f"{file}, line {number}", line.split()) for number, line in numbered_lines(file))


def _read_attributes(file: Address) -> tuple[tuple[str, ...], dict[str, tuple[Label, ...]], tuple[str, ...]]:
    """The names of the attributes, the labels by image without extension, and remarks."""
    records = _records(file)
    where, header = next(records, (f"{file}, line 1", []))
    count = None
    if file.suffix.lower() == ".csv":
        header = header[1:]
    else:
        if len(header) != 1 or not header[0].isdigit():
            text = " ".join(header)[:60]
            raise UserError(f"{where}: the number of images was expected, not {text!r}")
        count = int(header[0])
        where, header = next(records, (f"{file}, line 2", []))
    names = tuple(header)
    if not names or len(set(names)) != len(names):
        raise UserError(f"{where}: attribute names were expected, each once")
    labels: dict[str, tuple[Label, ...]] = {}
    for where, (name, *values) in records:
        if len(values) != len(names):
            raise UserError(f"{where}: {len(values)} labels for {len(names)} attributes; fix the row")
        _check_new(labels, name, where)
        unknown = next((value for value in values if value not in LABELS), None)
        if unknown is not None:
            raise UserError(f"{where}: {unknown!r} is none of -1, 1, 0, NaN")
        labels[stem(name)] = tuple(LABELS[value] for value in values)
    if count in (None, len(labels)):
        return names, labels, ()
    return names, labels, (f"{file.name} announces {count:,} rows and has {len(labels):,}; is it complete?",)


def _read_pairs(tree: FileTree, name: str, allowed: dict[str, str] | None) -> dict[str, str]:
    path = _only(tree, (f"{name}.txt", f"{name}.csv"))
    if path is None:
        return {}
    records = _records(tree.root / path)
    if path.lower().endswith(".csv"):
        next(records, None)
    pairs: dict[str, str] = {}
    for where, fields in records:
        if len(fields) != 2:
            raise UserError(f"{where}: 'image value' was expected, not {' '.join(fields)[:60]!r}")
        image, value = fields
        _check_new(pairs, image, where)
        if allowed is not None and value not in allowed:
            raise UserError(f"{where}: {value!r} is none of {', '.join(allowed)}")
        pairs[stem(image)] = allowed[value] if allowed else value
    return pairs


def _check_new(rows: Collection[str], image: str, where: str) -> None:
    if stem(image) in rows:
        raise UserError(f"{where}: a second row for {image}; delete one")
