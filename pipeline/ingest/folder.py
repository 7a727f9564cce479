"""Adapter for a plain folder: every image below it, without labels; none may lie beside them."""

import re
from pathlib import Path
from typing import Final

from common.errors import UserError
from common.input_files import FileTree, is_image, photos, stem
from common.storage import Address, is_file
from pipeline.ingest import celeba, lfwa, webdataset
from pipeline.ingest.listing import Listing, Source

LEAVE_OUT: Final = "or leave it out with --format folder"
# Suffixes of files that hold tables and are not read.
SPREADSHEETS: Final = (".xlsx", ".xls", ".ods", ".mat", ".pkl", ".sqlite", ".db3")
# Suffixes of text files that may list images with their labels.
TEXTS: Final = (".txt", ".json", ".jsonl", ".ndjson", ".xml", ".yaml", ".yml", ".lst", ".list", ".dat", "")


def recognised(tree: FileTree) -> bool:
    """Whether an input is a folder, of whatever files."""
    return not tree.is_file


def read(tree: FileTree) -> Listing:
    """List all images below the input except hidden ones, and count the other files.

    Raises:
        UserError: there are only other files.
    """
    files, remarks = photos(tree)
    return Listing((Source(file.path, refused=file.refused) for file in files), (), False, remarks)


def check_unlabelled(tree: FileTree) -> None:
    """Check that nothing beside the photos looks like labels.

    A text file that names two images of the folder is taken for labels; side files such as captions
    and Takeout's name at most their own.

    Raises:
        UserError: something does; it says what, and what to do about it.
    """
    above = tree.path.absolute().parent if isinstance(tree.path, Path) else tree.path.parent
    _check_above(tree.path, above)
    archives = tree.archives()
    if archives and not tree.images:
        raise UserError(f"{tree.path} has no images yet; unpack {archives[0]}")
    if tars := webdataset.tars(tree):
        raise UserError(
            f"{tree.path} has both images and {tars[0].path}; read the tars with "
            f"--format webdataset, {LEAVE_OUT}"
        )
    names = {stem(path.rpartition("/")[2]) for path in tree.images}
    for file in tree.files:
        name = file.path.rpartition("/")[2].lower()
        suffix = Path(name).suffix
        if file.refused or file.path.count("/") > 1:
            continue
        if suffix in SPREADSHEETS and name != "thumbs.db":
            raise UserError(
                f"{tree.path} has {file.path}, which is not read; save its labels as .csv with a column "
                f"'path', {LEAVE_OUT}"
            )
        if suffix in TEXTS and (mentioned := _mentioned(tree.root / file.path, names)):
            raise UserError(
                f"{file.path} names images, such as {mentioned}, but is no table of labels; save the labels "
                f"as .csv with a column 'path', {LEAVE_OUT}"
            )


def _check_above(path: Address, above: Address) -> None:
    """Check that the input is not the folder of images alone of a data set whose labels lie above it."""
    folders = {*celeba.FOLDERS, *lfwa.FOLDERS}
    labels = (*celeba.ATTRIBUTES, *lfwa.MATRICES, lfwa.SCORES)
    for _ in range(2):
        if path.name not in folders:
            return
        label_file = next((name for name in labels if is_file(above / name)), None)
        if label_file:
            raise UserError(
                f"the labels of {path} lie beside it, in {above / label_file}; name {above} as --input"
            )
        path, above = above, above.parent


def _mentioned(file: Address, names: set[str]) -> str | None:
    """One of two or more of the images' `names` that a text file mentions, or None."""
    with file.open("rb") as stream:
        text = stream.read(1 << 16).decode("utf-8", "replace")
    words = re.findall(r"[^\s\"'<>,;:=\\/]+", text)
    named = dict.fromkeys(word for word in words if is_image(word) and stem(word) in names)
    return next(iter(named)) if len(named) > 1 else None
