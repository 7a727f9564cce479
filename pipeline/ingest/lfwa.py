"""Adapter for LFW with attributes, in either of its two distributions.

The images are ``Person_Name/Person_Name_0001.jpg``, in any folder of the input, so that Kaggle's
``lfw-deepfunneled/lfw-deepfunneled/`` will do. The person is the identity. Labels come from one of
these files, wherever it lies:

- ``lfw_att_40.mat`` or ``lfw_att_73.mat`` of LFWA (Liu et al., ICCV 2015; MATLAB 7.3, which is
  HDF5): ``AttrName``, ``name`` (paths with backslashes) and ``label`` (1, 0, or NaN), with LFWA's
  own split by identity from ``indices_train_test.mat`` (``indices_img_train`` and
  ``indices_img_test``, numbers from 1) if that exists too;
- ``lfw_attributes.txt`` (Kumar et al., ICCV 2009): a comment, a line of tab-separated column names
  (``person``, ``imagenum``, then 73 attributes), then a row of real-valued scores per image. Above
  0 is yes, below 0 is no, 0 and NaN are unknown.

An attribute's spaces become underscores, so that names that CelebA shares are CelebA's.
"""

import math
from typing import Any, Final

import h5py
import numpy as np

from common.errors import UserError
from common.input_files import FileTree, is_image, stem
from common.storage import Address
from pipeline.ingest.labels import Label
from pipeline.ingest.listing import Listing, Source
from pipeline.ingest.match import join_rows
from pipeline.ingest.rows import numbered_lines

# Folders, and so archives, that only LFW has.
FOLDERS: Final = ("lfw", "lfw-deepfunneled", "lfw-funneled", "lfw_funneled")
MATRICES: Final = ("lfw_att_40.mat", "lfw_att_73.mat")
SCORES: Final = "lfw_attributes.txt"
# The names of the attributes, and the labels and splits by image.
_Labels = tuple[tuple[str, ...], dict[str, tuple[Label, ...]], dict[str, str]]


def recognised(tree: FileTree) -> bool:
    """Whether an input holds an attribute file of LFW, or a folder or archive of its images."""
    if tree.is_file:
        return False
    folders = {folder for path in tree.images for folder in path.lower().split("/")[:-2]}
    folders |= {path.rpartition("/")[2].split(".")[0].lower() for path in tree.archives()}
    return bool(tree.named(*MATRICES, SCORES)) or not folders.isdisjoint(FOLDERS)


def read(tree: FileTree) -> Listing:
    """List the images and every label row without an image.

    Raises:
        UserError: there is no attribute file, it is malformed (names the line), or no row has an image.
    """
    file = next(iter([*tree.named(*MATRICES), *tree.named(SCORES)]), None)
    if file is None:
        raise UserError(
            f"{tree.path} looks like LFW but has none of {', '.join((*MATRICES, SCORES))}, so there would be "
            "no labels; put one there, or use the images without them: --format folder"
        )
    names, rows, splits = (_read_scores if file.endswith(".txt") else _read_matrix)(tree, file)
    files = {
        entry.path: entry.refused
        for entry in tree.files
        if entry.refused or ("/" in entry.path and is_image(entry.path))
    }
    missing = f"{file.rpartition('/')[2]} has a row for it, but the file does not exist"
    sources = [
        Source(path, splits.get(image), image.rpartition("/")[0] or None, rows.get(image), refused)
        for path, image, refused in join_rows(tree, file, rows, files, 2, missing)
    ]
    return Listing(sources, names, aligned=False)


def _read_scores(tree: FileTree, path: str) -> _Labels:
    file = tree.root / path
    names: tuple[str, ...] = ()
    rows: dict[str, tuple[Label, ...]] = {}
    for number, line in numbered_lines(file):
        fields = line.split("\t")
        if not names:
            if "imagenum" in fields:
                names = tuple(
                    name.strip().replace(" ", "_") for name in fields[fields.index("imagenum") + 1 :]
                )
            continue
        if len(fields) != len(names) + 2:
            raise UserError(f"{file}, line {number}: {len(fields) - 2} scores for {len(names)} attributes")
        try:
            person = fields[0].strip().replace(" ", "_")
            image = f"{person}/{person}_{int(fields[1]):04d}"
            scores = [float(field) for field in fields[2:]]
        except ValueError as error:
            raise UserError(f"{file}, line {number}: {error}") from error
        if image in rows:
            raise UserError(f"{file}, line {number}: a second row for {image}.jpg; delete one")
        rows[image] = tuple(None if not score or math.isnan(score) else int(score > 0) for score in scores)
    if not names:
        raise UserError(f"{file}: no line with the column names person, imagenum and attributes")
    return names, rows, {}


def _read_matrix(tree: FileTree, name: str) -> _Labels:
    file = tree.root / name
    try:
        with file.open("rb") as stream, h5py.File(stream) as content:
            names = tuple(text.strip().replace(" ", "_") for text in _strings(content, "AttrName"))
            paths = [stem(text.replace("\\", "/")) for text in _strings(content, "name")]
            label = np.asarray(content["label"], np.float64).T  # MATLAB stores columns first
        indices = tree.named("indices_train_test.mat")
        splits = _read_indices(tree.root / indices[0], paths) if indices else {}
    except (OSError, KeyError, ValueError, IndexError) as error:
        raise UserError(f"{file}: not LFWA's attribute file: {error}") from error
    if label.shape != (len(paths), len(names)):
        raise UserError(f"{file}: labels of shape {label.shape} for {len(paths)} x {len(names)}")
    if len(set(paths)) != len(paths):
        raise UserError(f"{file}: two rows for one image")
    if not np.isin(label[~np.isnan(label)], (0, 1)).all():
        raise UserError(f"{file}: a label is none of 0, 1, NaN")
    rows = {
        path: tuple(None if value != value else int(value) for value in row)
        for path, row in zip(paths, label.tolist(), strict=True)
    }
    return names, rows, splits


def _read_indices(file: Address, paths: list[str]) -> dict[str, str]:
    splits: dict[str, str] = {}
    with file.open("rb") as stream, h5py.File(stream) as content:
        for split in ("train", "test"):
            for number in np.asarray(content[f"indices_img_{split}"]).ravel().astype(int).tolist():
                if not 1 <= number <= len(paths):
                    raise IndexError(f"{file.name} counts to {number}, there are {len(paths)} images")
                splits[paths[number - 1]] = split
    return splits


def _strings(content: Any, name: str) -> list[str]:
    """A cell array of strings: references to arrays of UTF-16 code units."""
    return [
        np.asarray(content[reference], np.uint16).tobytes().decode("utf-16-le")
        for reference in np.asarray(content[name]).ravel()
    ]
