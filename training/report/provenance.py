"""What made the results: configuration, commands and versions."""

import platform
import shlex
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from common.config import Config, load
from common.layout import DEFAULT_SHARDS, Layout
from training.engine import checkpoint
from training.models.pretrained import read_pretrained
from training.report.results import Run

PACKAGES: Final = (
    *("torch", "torchvision", "numpy", "opencv-python", "facexlib", "webdataset", "pyarrow", "dask"),
    *("scikit-learn", "torch-ema", "dvc", "dvclive", "pydantic"),
)
"""Packages on which the numbers may depend."""


def used_config(config: Config, output: Path, runs: Sequence[Run]) -> dict[str, Any]:
    """The configuration, with the sections that were stored beside the weights as they were then."""
    values = config.model_dump(mode="json")
    stored = [(output / "pretrain" / "pretrained.safetensors", ("network", "pretrain"))]
    stored += [
        (output / "finetune" / run.name / "classifier.pt", ("network", "finetune")) for run in runs[:1]
    ]
    for file, sections in stored:
        if file.is_file():
            read = read_pretrained if file.suffix == ".safetensors" else checkpoint.load
            kept = read(file)["config"]
            values.update({name: kept[name] for name in sections})
    return values


def commands(config: Config, layout: Layout, output: Path, root: str) -> list[str]:
    """The shell lines that make the results again; `root` is the folder of photos."""
    if layout.shards == DEFAULT_SHARDS and output == Path("runs") and config == load():
        return ["dvc repro report"]
    shards, results = shlex.quote(str(layout.shards)), shlex.quote(str(output))
    return [
        f"python -m pipeline.parse --config config.yaml --input {shlex.quote(root)} --output {shards}",
        f"python -m training.run --config config.yaml --shards {shards} --output {results}",
    ]


def versions() -> list[tuple[str, str]]:
    """The versions of Python and `PACKAGES`."""
    found = [("Python", platform.python_version())]
    for name in PACKAGES:
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    return found
