"""The sections of the configuration that the pipeline and the data loader read.

They are a module of their own so that the code that determines the bytes of a shard does not
depend on the settings of the trainer.
"""

import os
from pathlib import Path
from tempfile import gettempdir
from typing import Annotated, Literal

from pydantic import Field

from common.section import Fraction, Positive, Precision, Section

ParserPrecision = Precision | Literal["int8"]
InputFormat = Literal["auto", "celeba", "lfwa", "utkface", "table", "webdataset", "folder"]


class Data(Section):
    """Which photos.

    input: folder of photos, table of paths or tar, or its fsspec address.
    name: names the data set's folder in ``shards/``.
    """

    input: Annotated[str, Field(min_length=1)]
    name: Annotated[str, Field(pattern=r"^[\w-][\w.-]*$")]


class Sample(Section):
    """The painted sample set: the number of portraits, and the seed."""

    count: Positive
    seed: int


class Ingest(Section):
    """How inputs are read and planned into shards.

    format: the layout of the input (``auto`` recognises it).
    labels: a table of labels, identities or splits to join to the photos, with paths below the input.
    limit: only the first so many sources. shard_size: samples per shard; small sets have
    smaller ones, 1/32 of the set, but no less than 16 samples.
    labels_in_tars: whether the JSON of a sample repeats split, identity and labels, for readers without the
    manifest; every change of a label then makes a shard again.
    min_side: shorter side in pixels below which an image is refused.
    max_pixels: declared size above which a file is refused before it is decoded.
    val_fraction, test_fraction: shares of the labelled photos, where the data set has no split of its own.
    """

    format: InputFormat
    labels: str | None
    limit: Positive | None
    seed: int
    shard_size: Positive
    labels_in_tars: bool
    min_side: Positive
    max_pixels: Positive
    val_fraction: Fraction
    test_fraction: Fraction


class Align(Section):
    """From images to aligned faces.

    mode: ``detect`` finds and warps the face, ``none`` takes the central square, ``auto`` is
    ``none`` for data sets that are known to be aligned (CelebA's layout), else ``detect``.
    size: side of the stored face. detect_side: the detector first sees images whose longer side is at
    most this long (see `common.alignment.search`). threshold: detector score. min_visible: share of the
    face's box that must lie inside the image. faces: which of several faces; ``all``
    makes a sample of each, the largest first. bystander_labels: whether all of them get the photo's labels
    and identity, or only the largest; by default as in classifiers from before there was this setting.
    """

    mode: Literal["auto", "detect", "none"]
    size: Annotated[int, Field(ge=32, le=1024)]
    jpeg_quality: Annotated[int, Field(ge=95, le=100)]
    detector: Literal["retinaface_mobile0.25", "retinaface_resnet50"]
    threshold: Fraction
    detect_side: Annotated[int, Field(ge=64)]
    min_visible: Fraction
    faces: Literal["largest", "centre", "all"]
    bystander_labels: bool = False


class Parse(Section):
    """From aligned faces to masks.

    parser: one of facexlib's, or the kind of the file that ``weights.parser`` names. size: side in
    pixels at which the parser sees the face (448 to 512 for quality); a class map may set another.
    precision: of bisenet and parsenet (``auto``: see `pipeline.parse.backends`; ``int8``: bisenet only); an
    ONNX or TorchScript file has its own. grid: cells per side of the stored class counts. features: what is
    stored of bisenet's features: null, ``pooled`` over the face and its regions, or ``grid``: that and 8 x 8
    cells. features_from: an ONNX or TorchScript file of another network whose features of the face are stored
    too, see `pipeline.parse.embedder`.
    """

    parser: Literal["bisenet", "parsenet", "onnx", "torchscript"]
    size: Annotated[int, Field(ge=64, multiple_of=32)]
    batch_size: Positive
    precision: ParserPrecision
    grid: Positive
    features: Literal["pooled", "grid"] | None
    features_from: str | None


class Weights(Section):
    """Where the detector's and the parser's weights come from; null paths are searched for.

    class_map: of an ONNX or TorchScript parser; null: beside it, as FILE.yaml or FILE.json
    instead of FILE.onnx. timeout: seconds to wait for a host before the next source is tried.
    """

    detector: str | None
    parser: str | None
    class_map: str | None
    cache: str | None
    timeout: Annotated[float, Field(gt=0)]


class Cluster(Section):
    """The Dask cluster: an address to join, or so many local processes (0: one per core or GPU share).

    processes_per_gpu: how many share a GPU, on a machine that has some. No more processes are started than
    the memory allows, 1.1 GB each.
    in_flight: tasks per thread of the workers that are submitted at a time. resources: what a worker of the
    joined cluster must offer to get tasks, such as {GPU: 1}; null: nothing. start_minutes: how long a joined
    cluster may take to have its first worker, such as one that scales from zero. stalled_minutes: a worker
    whose tasks make no progress for so long is restarted, and its shards are made again. retry_minutes: how
    long what fails because a store does not answer is tried again.
    """

    scheduler: str | None
    workers: Annotated[int, Field(ge=0)]
    processes_per_gpu: Positive
    in_flight: Positive
    resources: dict[str, Annotated[float, Field(gt=0)]] | None
    start_minutes: Annotated[float, Field(gt=0)]
    stalled_minutes: Annotated[float, Field(gt=0)]
    retry_minutes: Annotated[float, Field(ge=0)]


class Quarantine(Section):
    """How much may be refused.

    max_fraction: share of all sources; a run stops as soon as more are refused.
    """

    max_fraction: Fraction


class Stream(Section):
    """How shards are read, and where remote ones are kept meanwhile.

    cache: local folder of shards and of the index of samples, shared by all processes of a machine (null:
    one in the system's temporary folder). cache_gigabytes: how much of it shards may fill, by all processes
    together; a cache smaller than ``shuffle_shards`` shards downloads each shard more than once per epoch.
    retry_minutes: how long a download is tried again while the store does not answer. max_broken: broken
    samples that each process of a training run replaces by others before it stops.
    """

    cache: str | None
    cache_gigabytes: Annotated[float, Field(gt=0)]
    retry_minutes: Annotated[float, Field(ge=0)]
    max_broken: Annotated[int, Field(ge=0)]

    @property
    def folder(self) -> Path:
        """``cache``, or the folder that takes its place."""
        return Path(self.cache) if self.cache else Path(gettempdir()) / f"shards-{os.getuid()}"
