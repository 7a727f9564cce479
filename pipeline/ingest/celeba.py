"""Adapter for CelebA's official layout.

``img_align_celeba/`` with the aligned images, or ``img_celeba/`` with the uncropped ones,
``list_attr_celeba.txt`` (count, names, then one row of -1/1 per image; 0 and NaN are unknown),
and, where present, ``list_eval_partition.txt`` (0 train, 1 val, 2 test) and ``identity_CelebA.txt``.
"""

from typing import Final

from common.errors import UserError
from common.storage import Address, is_file, is_folder
from pipeline.ingest.files import list_files
from pipeline.ingest.labels import numbered_lines
from pipeline.ingest.listing import Listing, Source

ALIGNED: Final = "img_align_celeba"
UNCROPPED: Final = "img_celeba"
ATTRIBUTES: Final = "list_attr_celeba.txt"
PARTITION: Final = "list_eval_partition.txt"
IDENTITY: Final = "identity_CelebA.txt"
PARTITIONS: Final = {"0": "train", "1": "val", "2": "test"}
LABELS: Final = {"-1": 0, "1": 1, "0": None, "nan": None, "NaN": None}


def recognised(path: Address) -> bool:
    """Whether `path` is laid out as CelebA."""
    return is_folder(path / ALIGNED) or is_folder(path / UNCROPPED)


def read(path: Address) -> Listing:
    """List the images, the aligned ones if both exist, and every label row without an image.

    Raises:
        UserError: a label file has a row of the wrong width, an unknown value, or two
            rows for one image; the message names file and line.
    """
    folder = ALIGNED if is_folder(path / ALIGNED) else UNCROPPED
    names, labels = _read_attributes(path / ATTRIBUTES)
    partition = _read_pairs(path / PARTITION, PARTITIONS)
    identity = _read_pairs(path / IDENTITY, None)
    refusals = {file.path.removeprefix(f"{folder}/"): file.refused for file in list_files(path, folder)}
    missing = ("label-without-image", f"{ATTRIBUTES} has a row for it, but {folder}/ has no such file")
    sources = [
        Source(
            path=f"{folder}/{name}",
            split=partition.get(name),
            identity=identity.get(name),
            attributes=labels.get(name),
            refused=refusals.get(name, missing),
        )
        for name in sorted(refusals.keys() | labels.keys())
    ]
    return Listing(sources, names, aligned=folder == ALIGNED)


def _read_attributes(file: Address) -> tuple[tuple[str, ...], dict[str, tuple[int | None, ...]]]:
    if not is_file(file):
        return (), {}
    lines = numbered_lines(file)
    count_number, count = next(lines, (1, ""))
    if not count.strip().isdigit():
        raise UserError(f"{file}, line {count_number}: the number of images was expected, not {count[:60]!r}")
    names_number, header = next(lines, (2, ""))
    names = tuple(header.split())
    if not names or len(set(names)) != len(names):
        raise UserError(f"{file}, line {names_number}: attribute names were expected, each once")
    labels: dict[str, tuple[int | None, ...]] = {}
    for number, line in lines:
        image, *values = line.split()
        if len(values) != len(names):
            raise UserError(
                f"{file}, line {number}: {len(values)} labels for {len(names)} attributes; fix the row"
            )
        if image in labels:
            raise UserError(f"{file}, line {number}: a second row for {image}; delete one")
        unknown = next((value for value in values if value not in LABELS), None)
        if unknown is not None:
            raise UserError(f"{file}, line {number}: {unknown!r} is none of -1, 1, 0, NaN")
        labels[image] = tuple(LABELS[value] for value in values)
    return names, labels


def _read_pairs(file: Address, allowed: dict[str, str] | None) -> dict[str, str]:
    if not is_file(file):
        return {}
    pairs: dict[str, str] = {}
    for number, line in numbered_lines(file):
        fields = line.split()
        if len(fields) != 2:
            raise UserError(f"{file}, line {number}: 'image value' was expected, not {line[:60]!r}")
        image, value = fields
        if image in pairs:
            raise UserError(f"{file}, line {number}: a second row for {image}; delete one")
        if allowed is not None and value not in allowed:
            raise UserError(f"{file}, line {number}: {value!r} is none of {', '.join(allowed)}")
        pairs[image] = allowed[value] if allowed else value
    return pairs
