"""Adapter for LFW with attributes, in either of its two distributions.

The images lie in ``Person_Name/Person_Name_0001.jpg``, in the input folder itself or in ``lfw/``,
``lfw-deepfunneled/``, ``lfw-funneled/`` or ``lfw_funneled/``. The person is the identity. Labels
come from the first of these files that exists:

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
from dataclasses import dataclass
from typing import Any, Final

import h5py
import numpy as np

from common.errors import UserError
from common.storage import Address, is_file, is_folder
from pipeline.ingest.files import list_files
from pipeline.ingest.labels import Label, numbered_lines
from pipeline.ingest.listing import Listing, Source

FOLDERS: Final = ("lfw", "lfw-deepfunneled", "lfw-funneled", "lfw_funneled")
MATRICES: Final = ("lfw_att_40.mat", "lfw_att_73.mat")
INDICES: Final = "indices_train_test.mat"
SCORES: Final = "lfw_attributes.txt"


@dataclass(frozen=True)
class _Labels:
    file: str
    names: tuple[str, ...]
    rows: dict[str, tuple[Label, ...]]
    splits: dict[str, str]


def recognised(path: Address) -> bool:
    """Whether a folder holds one of the attribute files of LFW."""
    return any(is_file(path / name) for name in (*MATRICES, SCORES))


def read(path: Address) -> Listing:
    """List the images and every label row without an image.

    Raises:
        UserError: there is no attribute file, or it is malformed; the message names file and line.
    """
    folder = next((name for name in FOLDERS if is_folder(path / name)), "")
    lead = f"{folder}/" if folder else ""
    matrix = next((name for name in MATRICES if is_file(path / name)), None)
    if matrix is None and not is_file(path / SCORES):
        raise UserError(f"{path} has none of {', '.join((*MATRICES, SCORES))}")
    labels = _read_matrix(path, matrix) if matrix else _read_scores(path / SCORES)
    files = {file.path.removeprefix(lead): file.refused for file in list_files(path, folder)}
    images = {path: refused for path, refused in files.items() if "/" in path or refused}
    missing = ("label-without-image", f"{labels.file} has a row for it, but the file does not exist")
    sources = [
        Source(
            path=lead + path,
            split=labels.splits.get(path),
            identity=path.rpartition("/")[0] or None,
            attributes=labels.rows.get(path),
            refused=images.get(path, missing),
        )
        for path in sorted(images.keys() | labels.rows.keys())
    ]
    return Listing(sources, labels.names, aligned=False)


def _read_scores(file: Address) -> _Labels:
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
            path = _path(fields[0], int(fields[1]))
            scores = [float(field) for field in fields[2:]]
        except ValueError as error:
            raise UserError(f"{file}, line {number}: {error}") from error
        if path in rows:
            raise UserError(f"{file}, line {number}: a second row for {path}; delete one")
        rows[path] = tuple(None if not score or math.isnan(score) else int(score > 0) for score in scores)
    if not names:
        raise UserError(f"{file}: no line with the column names person, imagenum and attributes")
    return _Labels(file.name, names, rows, {})


def _path(person: str, number: int) -> str:
    name = person.strip().replace(" ", "_")
    return f"{name}/{name}_{number:04d}.jpg"


def _read_matrix(path: Address, name: str) -> _Labels:
    file = path / name
    try:
        with file.open("rb") as stream, h5py.File(stream) as content:
            names = tuple(text.strip().replace(" ", "_") for text in _strings(content, "AttrName"))
            paths = [text.replace("\\", "/") for text in _strings(content, "name")]
            label = np.asarray(content["label"], np.float64).T  # MATLAB stores columns first
        splits = _read_indices(path / INDICES, paths)
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
    return _Labels(name, names, rows, splits)


def _read_indices(file: Address, paths: list[str]) -> dict[str, str]:
    splits: dict[str, str] = {}
    if is_file(file):
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
