"""The sections of the configuration that the pipeline and the data loader read.

They are a module of their own so that the code that determines the bytes of a shard does not
depend on the settings of the trainer.
"""

import os
from pathlib import Path
from tempfile import gettempdir
from typing import Annotated, Literal

from pydantic import Field, model_validator

from common.section import Fraction, LocalPath, Positive, Precision, Section

ParserPrecision = Precision | Literal["int8"]
InputFormat = Literal["auto", "celeba", "lfwa", "utkface", "table", "webdataset", "folder"]


class Data(Section):
    """Which photos."""

    input: Annotated[
        LocalPath,
        Field(min_length=1, description="folder of photos, table of paths or tar, or its fsspec address"),
    ]
    name: Annotated[
        str,
        Field(pattern=r"^[\w-][\w.-]*$", description="name of the data set and of its folder in shards/"),
    ]


class Sample(Section):
    """The painted sample set."""

    count: Annotated[Positive, Field(description="number of portraits")]


class Ingest(Section):
    """How inputs are read and planned into shards."""

    format: Annotated[InputFormat, Field(description="layout of the input; ``auto`` recognises it")]
    labels: Annotated[
        LocalPath | None,
        Field(description="table of labels, identities or splits to join to the photos by path, or null"),
    ]
    limit: Annotated[Positive | None, Field(description="read only the first so many photos; null: all")]
    seed: Annotated[int, Field(description="seed of the order of photos and of the drawn splits")]
    shard_size: Annotated[
        Positive,
        Field(description="samples per shard; small sets have shards of 1/32 of the set, but at least 16"),
    ]
    max_pixels: Annotated[
        Positive, Field(description="declared width x height above which a file is refused undecoded")
    ]
    val_fraction: Annotated[
        Fraction, Field(description="share of labelled photos drawn for val if the data set has no splits")
    ]
    test_fraction: Annotated[
        Fraction, Field(description="share of labelled photos drawn for test if the data set has no splits")
    ]

    @model_validator(mode="after")
    def _leaves_train(self) -> "Ingest":
        if self.val_fraction + self.test_fraction > 1:
            raise ValueError("val_fraction and test_fraction together are more than 1")
        return self


class Align(Section):
    """From images to aligned faces."""

    mode: Annotated[
        Literal["auto", "detect", "none"],
        Field(
            description="``detect`` and warp the face, ``none``: central square, ``auto``: none for CelebA"
        ),
    ]
    size: Annotated[int, Field(ge=32, le=1024, description="side of the stored face in pixels")]
    detector: Annotated[
        Literal["retinaface_mobile0.25", "retinaface_resnet50"],
        Field(description="network that finds faces: fast, or accurate"),
    ]
    threshold: Annotated[Fraction, Field(description="detector score below which a face is ignored")]
    faces: Annotated[
        Literal["largest", "centre", "all"],
        Field(description="which of several faces become samples; ``all``: each of them, the largest first"),
    ]
    bystander_labels: Annotated[
        bool,
        Field(description="whether all faces of a photo get its labels and identity, or only the largest"),
    ] = False


class Parse(Section):
    """From aligned faces to masks."""

    parser: Annotated[
        Literal["bisenet", "parsenet", "onnx", "torchscript"],
        Field(description="a parser of facexlib, or the kind of the file that ``weights.parser`` names"),
    ]
    size: Annotated[
        int,
        Field(
            ge=64, multiple_of=32, description="side in pixels of the parser's input, 448 to 512 for quality"
        ),
    ]
    precision: Annotated[
        ParserPrecision,
        Field(description="precision of facexlib's parsers; ``auto``: int8 for bisenet on x86 CPUs"),
    ]
    features_from: Annotated[
        list[LocalPath],
        Field(
            description="networks whose features of each face are stored too: ``efficientnet_lite0``, "
            "``dlib_face``, or ONNX or TorchScript files"
        ),
    ]


class Weights(Section):
    """Files of pretrained weights."""

    detector: Annotated[
        LocalPath | None, Field(description="file of the detector's weights; null: cached or downloaded")
    ]
    parser: Annotated[
        LocalPath | None,
        Field(description="file of the parser, with its class map beside it; null: cached or downloaded"),
    ]
    cache: Annotated[
        LocalPath | None, Field(description="folder of downloaded weights; null: the user's cache folder")
    ]


class Cluster(Section):
    """The Dask cluster that the work runs on."""

    scheduler: Annotated[
        str | None, Field(description="address of a cluster to join; null: local worker processes")
    ]
    workers: Annotated[
        int,
        Field(ge=0, description="local processes, as memory allows; 0: one per core or several per GPU"),
    ]
    processes_per_gpu: Annotated[Positive, Field(description="local processes that share each GPU")]
    resources: Annotated[
        dict[str, Annotated[float, Field(gt=0)]] | None,
        Field(description="what a worker of the joined cluster must offer to get tasks, such as {GPU: 1}"),
    ]


class Quarantine(Section):
    """How much may be refused."""

    max_fraction: Annotated[
        Fraction, Field(description="share of all photos; a run stops as soon as more of them are refused")
    ]


class Stream(Section):
    """How stores are read, and where remote shards are kept meanwhile."""

    cache: Annotated[
        LocalPath | None,
        Field(description="local folder of remote shards and of the index; null: in the temporary folder"),
    ]
    cache_gigabytes: Annotated[
        float,
        Field(gt=0, description="size of the cache, which should hold at least ``shuffle_shards`` shards"),
    ]
    retry_minutes: Annotated[
        float, Field(ge=0, description="minutes for which a store that does not answer is tried again")
    ]
    max_broken: Annotated[
        int,
        Field(ge=0, description="broken samples that a training process replaces by others before it stops"),
    ]

    @property
    def folder(self) -> Path:
        """The user's folder in ``cache``, or in the one that takes its place."""
        return Path(self.cache or gettempdir()) / f"shards-{os.getuid()}"
