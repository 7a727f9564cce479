"""The sections of the configuration that the pipeline and the data loader read.

They are a module of their own so that the code that determines the bytes of a shard does not
depend on the settings of the trainer.
"""

import os
from os.path import expanduser
from pathlib import Path
from tempfile import gettempdir
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]
LocalPath = Annotated[str, AfterValidator(expanduser)]
"""A path; ``~`` is the user's home."""
Precision = Literal["auto", "float32", "bfloat16", "float16"]
"""``auto``: what is fast on the machine, see `common.hardware`."""
ParserPrecision = Precision | Literal["int8"]
InputFormat = Literal["auto", "celeba", "lfwa", "utkface", "table", "webdataset", "folder"]


class Section(BaseModel):
    """A section of the configuration: immutable, without conversions, and without unknown keys.

    The string below a field is its description.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


def listed_errors(error: ValidationError) -> str:
    """The keys that pydantic refuses, and why."""
    return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())


class Data(Section):
    """Which photos."""

    input: Annotated[LocalPath, Field(min_length=1)]
    """folder of photos, table of paths or tar, or its fsspec address"""
    name: Annotated[str, Field(pattern="^[\\w-][\\w.-]*$")]
    """name of the data set and of its folder in shards/"""


class Sample(Section):
    """The painted sample set."""

    count: Positive
    """number of portraits"""


class Ingest(Section):
    """How inputs are read and planned into shards."""

    format: InputFormat
    """layout of the input; ``auto`` recognises it"""
    labels: LocalPath | None
    """table of labels, identities or splits to join to the photos by path, or null"""
    limit: Positive | None
    """read only the first so many photos; null: all"""
    seed: int
    """seed of the order of photos and of the drawn splits"""
    shard_size: Positive
    """samples per shard; small sets have shards of 1/32 of the set, but at least 16"""
    max_pixels: Positive
    """declared width x height above which a file is refused undecoded"""
    val_fraction: Fraction
    """share of labelled photos drawn for val if the data set has no splits"""
    test_fraction: Fraction
    """share of labelled photos drawn for test if the data set has no splits"""

    @model_validator(mode="after")
    def _leaves_train(self) -> "Ingest":
        if self.val_fraction + self.test_fraction > 1:
            raise ValueError("val_fraction and test_fraction together are more than 1")
        return self


class Align(Section):
    """From images to aligned faces."""

    mode: Literal["auto", "detect", "none"]
    """``detect`` and warp the face, ``none``: central square, ``auto``: none for CelebA"""
    size: Annotated[int, Field(ge=32, le=1024)]
    """side of the stored face in pixels"""
    detector: Literal["retinaface_mobile0.25", "retinaface_resnet50"]
    """network that finds faces: fast, or accurate"""
    threshold: Fraction
    """detector score below which a face is ignored"""
    faces: Literal["largest", "centre", "all"]
    """which of several faces become samples; ``all``: each of them, the largest first"""
    bystander_labels: bool = False
    """whether all faces of a photo get its labels and identity, or only the largest"""


class Parse(Section):
    """From aligned faces to masks."""

    parser: Literal["bisenet", "parsenet", "onnx", "torchscript"]
    """a parser of facexlib, or the kind of the file that ``weights.parser`` names"""
    size: Annotated[int, Field(ge=64, multiple_of=32)]
    """side in pixels of the parser's input, 448 to 512 for quality"""
    precision: ParserPrecision
    """precision of facexlib's parsers; ``auto``: int8 for bisenet on x86 CPUs"""
    features_from: list[LocalPath]
    """networks whose features of each face are stored too: ``efficientnet_lite0``, ``dlib_face``, or ONNX or
    TorchScript files"""


class Weights(Section):
    """Files of pretrained weights."""

    detector: LocalPath | None
    """file of the detector's weights; null: cached or downloaded"""
    parser: LocalPath | None
    """file of the parser, with its class map beside it; null: cached or downloaded"""
    cache: LocalPath | None
    """folder of downloaded weights; null: the user's cache folder"""


class Cluster(Section):
    """The Dask cluster that the work runs on."""

    scheduler: str | None
    """address of a cluster to join; null: local worker processes"""
    workers: Annotated[int, Field(ge=0)]
    """local processes, as memory allows; 0: one per core or several per GPU"""
    processes_per_gpu: Positive
    """local processes that share each GPU"""
    resources: dict[str, Annotated[float, Field(gt=0)]] | None
    """what a worker of the joined cluster must offer to get tasks, such as {GPU: 1}"""


class Quarantine(Section):
    """How much may be refused."""

    max_fraction: Fraction
    """share of all photos; a run stops as soon as more of them are refused"""


class Stream(Section):
    """How stores are read, and where remote shards are kept meanwhile."""

    cache: LocalPath | None
    """local folder of remote shards and of the index; null: in the temporary folder"""
    cache_gigabytes: Annotated[float, Field(gt=0)]
    """size of the cache, which should hold at least ``shuffle_shards`` shards"""
    retry_minutes: Annotated[float, Field(ge=0)]
    """minutes for which a store that does not answer is tried again"""
    max_broken: Annotated[int, Field(ge=0)]
    """broken samples that a training process replaces by others before it stops"""

    @property
    def folder(self) -> Path:
        """The user's folder in ``cache``, or in the one that takes its place."""
        return Path(self.cache or gettempdir()) / f"shards-{os.getuid()}"
