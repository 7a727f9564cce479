"""Which photos are predicted and what comes of it; and predictions for faces that lie in shards already."""

import hashlib
import os
import pickle
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, count
from math import prod
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import torch

from common import manifest
from common.config import Config
from common.errors import UserError
from common.files import replacing
from common.fork_server import START_METHOD
from common.hardware import hardware
from common.input_files import FileTree, photos
from common.layout import SPLITS, Layout
from common.photo import Photo as DecodedPhoto
from common.photo import Refused
from common.progress import progress
from training.data.samples import read_samples
from training.engine.device import announce_training
from training.evaluate.thresholds import DEFAULT, read_thresholds
from training.models.classifier import load_classifier, sample_probabilities
from training.predict.output import KeptRows, annotate, face_rows, path_text, write_table
from training.predict.predictor import Predictor

LONGEST_NAME: Final = 200  # Bytes of a photo's name that the name of its annotated picture repeats
GROUP: Final = 16  # Photos that a process is given at a time
MOST_PIXELS: Final = 50_000_000  # Of the photos that a process has in memory, together
TOO_LARGE: Final = Refused("too-large", "the memory did not suffice for its pixels")


@dataclass(frozen=True)
class Photo:
    """A photo to predict."""

    file: Path
    name: Path  # its path below the folder of annotated photos
    refused: Refused | None = None  # why it must not be read


Rows = list[dict[str, Any]]  # of one photo
Jobs = Sequence[tuple[Photo, Path | None]]  # photos, and where an annotated picture is written, if anywhere

_of_worker: list[Predictor] = []  # The predictor of a worker process


def photos_in(paths: list[Path]) -> tuple[list[Photo], list[str]]:
    """The photos that are named, and those in folders by ingest's rules; remarks about other files there.

    Raises:
        UserError: there is no photo.
    """
    listed, remarks = dict[Path, Photo](), list[str]()
    for path in paths:
        if path.is_dir():
            files, others = photos(FileTree(path))
            remarks += [f"{path_text(path)}: {remark}" for remark in others]
            for file in files:
                name = Path(path.resolve().name) / file.path
                refused = Refused(*file.refused) if file.refused else None
                listed.setdefault(path / file.path, Photo(path / file.path, name, refused))
        else:
            listed.setdefault(path, Photo(path, Path(path.name)))
    if not listed:
        names = ", ".join(map(path_text, paths))
        raise UserError(f"{names}: no files here; name photos or folders of photos")
    return list(listed.values()), remarks


def predict(
    predictor: Predictor,
    listed: list[Photo],
    annotated: Path | None,
    workers: int = 1,
    kept: KeptRows | None = None,
) -> Iterator[dict[str, Any]]:
    """The rows of all photos, in order; a photo without a usable face gets a row with the reason.

    Args:
        listed: see `photos_in`.
        annotated: folder for annotated images, or None.
        workers: processes that share the photos; 1: this one alone.
        kept: rows of an earlier run, and where those of this one are kept.

    Raises:
        UserError: weights are not available, or a process died.
    """
    kept = kept or KeptRows(None, {})
    used: set[Path] = set()
    jobs = [(photo, _unused(annotated / photo.name, used) if annotated else None) for photo in listed]
    missing = [job for job in jobs if kept.get(job[0].file) is None]
    groups = [missing[start : start + GROUP] for start in range(0, len(missing), GROUP)]
    bar = progress("predict", len(listed), "photos")
    with ExitStack() as stack:
        results: Iterator[list[Rows]] = (_predict_group(predictor, group) for group in groups)
        if workers > 1:
            start = (get_context(START_METHOD), _start_worker, (pickle.dumps(predictor),))
            results = stack.enter_context(ProcessPoolExecutor(workers, *start)).map(_in_worker, groups)
        predicted = chain.from_iterable(results)
        for photo, _ in jobs:
            rows = kept.get(photo.file)
            if rows is None:
                try:
                    rows = next(predicted)
                except BrokenProcessPool as error:
                    raise UserError(
                        "a worker process died, most often because the memory did not suffice; use fewer "
                        "--workers"
                    ) from error
                kept.add(photo.file, rows)
            yield from rows
            bar.update(1)
    bar.close()


def _start_worker(predictor: bytes) -> None:
    torch.set_num_threads(1)
    _of_worker.append(pickle.loads(predictor))


def _in_worker(group: Jobs) -> list[Rows]:
    return _predict_group(_of_worker[0], group)


def _predict_group(predictor: Predictor, group: Jobs) -> list[Rows]:
    """The rows of each photo, of which as many are in memory at a time as have `MOST_PIXELS` and one."""
    rows, read, pixels = list[Rows](), list[tuple[Photo, Path | None, DecodedPhoto | Refused]](), 0
    for photo, target in group:
        try:
            image = photo.refused or predictor.read(photo.file)
        except Refused as refused:
            image = refused
        except MemoryError:
            image = TOO_LARGE
        read.append((photo, target, image))
        pixels += 0 if isinstance(image, Refused) else prod(image.shape)
        if pixels > MOST_PIXELS:
            rows += _predict_read(predictor, read)
            read, pixels = [], 0
    return rows + _predict_read(predictor, read)


def _predict_read(
    predictor: Predictor, read: list[tuple[Photo, Path | None, DecodedPhoto | Refused]]
) -> list[Rows]:
    """The rows of each photo that was read; where the memory does not hold them together, of each alone."""
    pictures = [image for *_, image in read if not isinstance(image, Refused)]
    try:
        results = iter(predictor.predict_each(pictures))
    except MemoryError:
        if len(read) > 1:
            return [rows for each in read for rows in _predict_read(predictor, [each])]
        results = iter([TOO_LARGE])
    rows: list[Rows] = []
    for photo, target, image in read:
        faces = image if isinstance(image, Refused) else next(results)
        rows.append(face_rows(photo.file, faces))
        if target and not isinstance(image, Refused) and not isinstance(faces, Refused):
            with replacing(target) as temporary:
                annotate(image.image, faces).save(temporary, "JPEG", quality=92)
    return rows


def _unused(photo: Path, used: set[Path]) -> Path:
    """The path of an annotated photo, with a number if photos of several folders share a name.

    Of a long name its start and a hash of it, so that suffixes fit into 255 bytes.
    """
    name = path_text(Path(photo.name))
    if len(encoded := name.encode()) > LONGEST_NAME:
        digest = hashlib.sha256(encoded).hexdigest()[:8]
        name = f"{encoded[:LONGEST_NAME].decode(errors='ignore')}-{digest}"
    names = chain([f"{name}.jpg"], (f"{name}-{number}.jpg" for number in count(2)))
    paths = (photo.with_name(os.fsdecode(each.encode())) for each in names)  # in UTF-8 whatever the locale
    path = next(each for each in paths if each not in used)
    used.add(path)
    return path


def predict_stored(
    config: Config, layout: Layout, checkpoint: Path, thresholds: Path | None, output: Path
) -> None:
    """Write a row per sample of the shards: key, source, the attributes present, and the probabilities.

    Args:
        config: batch size and precision of the evaluation, and the cache of remote shards.
        thresholds: see `read_thresholds`; None: 0.5 for all.
        output: a file with one of the suffixes `training.predict.output.FORMATS`.

    Raises:
        UserError: a file is missing or does not fit, the shards are empty, or they lack what is read.
    """
    settings, classifier = config.evaluate, load_classifier(checkpoint)
    known = {} if thresholds is None else read_thresholds(thresholds, classifier)
    if classifier.network is not None:
        announce_training("predict", config.trainer.precision)
    classifier.configure(hardware().device, config.trainer.precision, settings.mirrored)
    samples = read_samples(layout, SPLITS, config.stream.folder)
    if not len(samples):
        raise UserError(f"{layout.shards}: no faces")
    probabilities = sample_probabilities(classifier, samples, config.stream, settings.batch_size, "predict")
    names, keys = np.array(classifier.attributes), list(samples.keys)
    present = probabilities >= np.array([known.get(name, DEFAULT) for name in classifier.attributes])
    ends = np.concatenate(([0], present.sum(axis=1).cumsum()))
    lists = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(names[np.nonzero(present)[1]]))
    rows = manifest.read(layout.samples, ["key", "source"]).table
    sources = pa.table({"key": keys, "row": np.arange(len(keys))}).join(rows, "key").sort_by("row")
    columns = {"key": keys, "source": sources["source"], "present": lists}
    write_table(output, pa.table({**columns, **dict(zip(names, probabilities.T, strict=True))}))
    print(f"predict: {len(samples):,} faces of {layout.shards}; thresholds {thresholds or DEFAULT}; {output}")
