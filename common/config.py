"""The configuration: typed, validated, and with one owner per setting.

``params.yaml`` at the root of the project holds every value; the classes here
say what is allowed and have no defaults of their own. A file given with
``--config`` and ``--set key=value`` override single values, in that order.
"""

import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator

from common import pipeline_config
from common.errors import UserError
from common.pipeline_config import Fraction, LocalPath, Positive, Precision, Section, Weight, listed_errors
from common.strict_yaml import parse_yaml, read_yaml

CHECKOUT: Final = Path(__file__).resolve().parent.parent
PARAMS: Final = (
    CHECKOUT if (CHECKOUT / "params.yaml").is_file() else Path(sys.prefix, "share", "sspl-faces")
) / "params.yaml"
"""The values of all settings; without a checkout, where the installation puts them."""


class Network(Section):
    """The network, see `training.models`."""

    name: Literal["spl", "sspl", "resnet18", "resnet34", "resnet50", "dlib_face"]
    """``spl`` (journal), ``sspl`` (2021), ``resnet18``, ``resnet34``, ``resnet50``, or ``dlib_face`` (of 200
    pixels), which the student has whatever stands here"""
    width: Annotated[int, Field(ge=8, multiple_of=8)]
    """channels of the first backbone stage; 64 as published"""
    stem: Literal["large", "small"]
    """``large``: the papers' 7x7 stride-2 convolution and max-pool; ``small``: a 3x3 stride-2 convolution,
    for inputs below 128 pixels"""
    input_size: Annotated[int, Field(ge=32)]
    """side of the network's input in pixels"""
    branch_stage: Annotated[int, Field(ge=0, le=3)]
    """the first of the backbone's stages, 0 to 3, that the branches of ``spl`` read; 0 as published, while 2
    leaves a training step less than half as expensive"""

    @model_validator(mode="after")
    def _of_200_pixels(self) -> "Network":
        if self.name == "dlib_face" and self.input_size != 200:
            raise ValueError("dlib_face needs an input_size of 200")
        return self


Schedule = Literal["cosine", "constant", "pretrain_paper", "finetune_paper"]
"""How the learning rate changes, see `training.engine.optim.rate_factor`."""


class TrainerSettings(Section):
    """How both stages train, whatever they train."""

    precision: Precision
    """number format of forward passes: ``auto`` (fast on the machine), ``float32``, ``bfloat16`` or
    ``float16``"""
    loader_workers: Annotated[int, Field(ge=0)]
    """threads of each process that read and decode samples ahead of their use"""
    shuffle_shards: Positive
    """how many shards are mixed at a time; if the number of processes divides it, each shard is read by one
    of them"""
    checkpoint_minutes: Annotated[float, Field(gt=0)]
    """minutes between two checkpoints"""
    compile: bool
    """whether the model is compiled with ``torch.compile``"""


class Pretrain(Section):
    """Stage 1."""

    seed: int
    """of the weights, the order of the samples and all draws"""
    steps: Positive
    """optimisation steps"""
    batch_size: Annotated[int, Field(ge=2)]
    """samples of one optimisation step, over all processes"""
    accumulate: Positive
    """micro-batches into which each process divides its share of a batch"""
    learning_rate: Annotated[float, Field(gt=0)]
    """of Adam, after a warm-up of a tenth of the steps"""
    weight_decay: Weight
    """L2 penalty of Adam"""
    schedule: Schedule
    """of the learning rate: ``cosine`` to zero, ``constant``, or the papers' steps"""
    clip_norm: Annotated[float, Field(gt=0)] | None
    """greatest norm of all gradients together; null: no limit"""
    tasks: dict[str, dict[str, Any]]
    """settings of each pretext task, by its name; every block has a ``weight``, and 0 switches the task off;
    ``training/pretrain/tasks/`` declares and checks the rest"""
    flip: Fraction
    """probability that a face is mirrored"""
    patch_fraction: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=2, max_length=2)]
    """least and greatest side of the patch that most tasks share, as a share of the face's; the papers have
    224 / 512 = 0.4375 for both"""
    classes: Literal["all", "merged"]
    """``all`` 19, or ``merged`` to the 8 of 2021"""
    average_decay: Fraction
    """decay of the weights' moving average, per step"""
    log_every: Positive
    """steps between two entries of the log"""
    validate_every: Positive | None
    """steps between two validations of the averaged weights; null: only at the end"""

    @model_validator(mode="after")
    def _consistent(self) -> "Pretrain":
        if self.patch_fraction[0] > self.patch_fraction[1]:
            raise ValueError("patch_fraction must be [least, greatest]")
        return self


def _share(labels: Any) -> Any:
    """``5%`` as a number; other values as they are."""
    percent = re.fullmatch(r"([\d.]+) ?%", labels) if isinstance(labels, str) else None
    return float(percent[1]) / 100 if percent else labels


class FinetuneRun(Section):
    """One amount of supervision, and how long networks learn from it."""

    labels: Annotated[
        Annotated[float, Field(gt=0, le=1)] | Annotated[LocalPath, Field(min_length=1)],
        BeforeValidator(_share),
    ]
    """share of the labelled train faces (0.05 or 5%), or the path of a list of keys"""
    steps: Positive
    """optimisation steps of networks"""


class Finetune(Section):
    """Stage 2: every run once with each method, on the same faces."""

    seed: int
    """of label subsets, new heads, order and augmentation"""
    runs: Annotated[list[FinetuneRun], Field(min_length=1)]
    """amounts of labels; they are nested per seed"""
    methods: Annotated[list[str], Field(min_length=1)]
    """ways to get a classifier, of ``scratch``, ``probe``, ``region_probe``, ``pretrained`` and ``student``;
    gains are measured against the first"""
    batch_size: Annotated[int, Field(ge=2)]
    """labelled faces of an optimisation step, over all processes"""
    learning_rate: Annotated[float, Field(gt=0)]
    """of Adam, after a warm-up of a tenth of the steps"""
    schedule: Literal["cosine", "constant", "finetune_paper"]
    """of the learning rate: ``cosine`` to zero, ``constant``, or the papers' steps"""
    backbone_rate: Weight
    """factor on the learning rate of a trained backbone; 0 freezes it"""
    heads_rate: Annotated[float, Field(gt=0)]
    """factor on the learning rate of the heads on trained weights"""
    solve_heads: bool
    """whether the heads on trained weights start as logistic regressions on the branches' features"""
    average_decay: Fraction
    """decay of the moving average of the weights"""
    select: Literal["labels", "val"]
    """what chooses the strength of probes, the step whose weights are kept, thresholds: ``labels``, the
    labelled faces alone (probes and student; other networks keep the last step and take thresholds from the
    val split); ``val``, the val split"""
    validate_every: Positive | None
    """steps between two validations; null: only after the last step"""
    groups: LocalPath | None
    """YAML file of attribute names by branch; null: those of CelebA"""
    regions: LocalPath | None
    """YAML file of face regions by attribute; null: those of CelebA"""


class Evaluate(Section):
    """Evaluation on the test split."""

    batch_size: Positive
    """faces per batch, here and in predictions"""
    mirrored: bool
    """whether networks see the mirror image of each face too, also in predictions, and the mean of both
    logits counts; takes twice the time"""
    subgroups: list[str]
    """attributes by each of which the faces with and without it are compared"""
    resamples: Positive
    """resamples of the bootstrap over identities, which gives the confidence intervals"""


class Study(Section):
    """The label-efficiency study: methods x ``finetune.runs`` x draws."""

    methods: Annotated[list[str], Field(min_length=1)]
    """what is compared, as in ``finetune.methods``"""
    draws: Positive
    """how often, each time with other labelled faces and pre-training: seeds"""


class Config(Section):
    """The whole configuration, one attribute per section of ``params.yaml``."""

    data: pipeline_config.Data
    sample: pipeline_config.Sample
    ingest: pipeline_config.Ingest
    align: pipeline_config.Align
    parse: pipeline_config.Parse
    weights: pipeline_config.Weights
    cluster: pipeline_config.Cluster
    quarantine: pipeline_config.Quarantine
    stream: pipeline_config.Stream
    network: Network
    trainer: TrainerSettings
    pretrain: Pretrain
    finetune: Finetune
    evaluate: Evaluate
    study: Study


def load(files: Iterable[Path] = (), settings: Iterable[str] = ()) -> Config:
    """Read ``params.yaml``, then `files` over it, then ``key=value`` `settings` over both.

    Raises:
        UserError: a file is missing or is not a YAML mapping, or a key is unknown or ill-typed;
            the message names the file or the key.
    """
    values = read_mapping(PARAMS)
    for file in files:
        _merge(values, read_mapping(file), Config, "", str(file))
    for setting in settings:
        _merge(values, _read_setting(setting), Config, "", f"--set {setting}")
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UserError(f"invalid configuration: {listed_errors(error)}") from error


def read_mapping(file: Path) -> dict[str, Any]:
    """The sections in a YAML file; a `UserError` if it cannot be read, or is not a YAML mapping."""
    values = read_yaml(file, "settings")
    if not isinstance(values, dict):
        raise UserError(f"{file}: a mapping of sections was expected, as in params.yaml")
    return values


def _read_setting(setting: str) -> dict[str, Any]:
    """``a.b=value`` as a nested mapping; the value is YAML."""
    key, equals, text = setting.partition("=")
    if not equals:
        raise UserError(f"--set {setting}: write it as key=value, such as parse.size=512")
    nested = parse_yaml(text, f"--set {setting}")
    for name in reversed(key.strip().split(".")):
        nested = {name: nested}
    return dict(nested)


def _merge(
    into: dict[str, Any], changes: Mapping[str, Any], schema: type[BaseModel] | None, path: str, where: str
) -> None:
    """Replace values of `into`, in place, by those of `changes`, which come from the file or flag `where`.

    `schema` is the section at `path` whose keys alone are allowed; None for a plain mapping with any keys.
    """
    for key, value in changes.items():
        if schema is not None and key not in schema.model_fields:
            known = ", ".join(sorted(schema.model_fields))
            raise UserError(f"{where}: unknown key {path}{key}; known here: {known}")
        if isinstance(into.get(key), dict):
            if not isinstance(value, Mapping):
                raise UserError(f"{where}: {path}{key} is a section, not a value")
            field = schema.model_fields[key].annotation if schema is not None else None
            section = field if isinstance(field, type) and issubclass(field, BaseModel) else None
            _merge(into[key], value, section, f"{path}{key}.", where)
        else:
            into[key] = value
