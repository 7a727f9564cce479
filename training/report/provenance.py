"""What made the results: configuration, commands and versions."""

import platform
import shlex
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from common.config import Config, load
from common.layout import DEFAULT_SHARDS, Layout
from training.engine import checkpoint
from training.models.pretrained import FILE, read_pretrained
from training.report.runs import Evaluation

PACKAGES: Final = (
    *("torch", "torchvision", "numpy", "opencv-python", "facexlib", "webdataset", "pyarrow", "dask"),
    *("scikit-learn", "torch-ema", "dvc", "dvclive", "pydantic"),
)
"""Packages on which the numbers may depend."""


def used_config(config: Config, output: Path, evaluation: Evaluation | None) -> dict[str, Any]:
    """The configuration, with the sections that were stored beside the weights as they were then."""
    values = config.model_dump(mode="json")
    pretrained = output / "pretrain" / FILE
    if pretrained.is_file():
        stored = read_pretrained(pretrained)["config"]
        values.update({name: stored[name] for name in ("network", "pretrain")})
    if evaluation is not None:
        classifier = output / "finetune" / evaluation.runs[0].name / "classifier.pt"
        if classifier.is_file():
            stored = checkpoint.load(classifier)["config"]
            values.update({name: stored[name] for name in ("network", "finetune")})
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


def versions() -> str:
    """The versions of Python and of those of `PACKAGES` that are installed."""
    versions = [f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(versions)
