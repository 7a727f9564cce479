"""The configuration: typed, validated, and with one owner per setting.

``params.yaml`` at the root of the project holds every value; the classes here
say what is allowed and have no defaults of their own. A file given with
``--config`` and ``--set key=value`` override single values, in that order.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError, model_validator

from common.config_files import merge, read_mapping, read_setting
from common.errors import UserError
from common.pipeline_config import Align, Cluster, Data, Ingest, Parse, Quarantine, Sample, Stream, Weights
from common.section import Fraction, Positive, Precision, Section, Weight

PARAMS: Final = Path(__file__).resolve().parent.parent / "params.yaml"



class Network(Section):
    """The network.

    name: ``spl`` (journal), ``sspl`` (2021), ``resnet18``, ``resnet34``, ``resnet50``, or
    ``timm:`` and a model's name in timm. width: channels of the first backbone stage; null is
    64 as in the papers, or what the timm model has. stem: ``large`` is the paper's 7x7
    stride-2 convolution and max-pool, ``small`` a 3x3 stride-2 convolution for inputs below
    128 pixels; timm's models keep their own and are ``large``. input_size: side in pixels
    that the network sees. branch_stage: the first of the backbone's stages 0..3 that the branches
    of ``spl`` read; 0 as published, while 2 leaves a training step less than half as expensive.
    """

    name: Annotated[str, Field(pattern=r"^(spl|sspl|resnet18|resnet34|resnet50|timm:[\w.-]+)$")]
    width: Annotated[int, Field(ge=8, multiple_of=8)] | None
    stem: Literal["large", "small"]
    input_size: Annotated[int, Field(ge=32)]
    branch_stage: Annotated[int, Field(ge=0, le=3)] = 0

    @model_validator(mode="after")
    def _possible(self) -> "Network":
        if self.name.startswith("timm:") and (self.width is not None or self.stem != "large"):
            raise ValueError(
                f"{self.name} has its own width and stem; set network.width=null and network.stem=large"
            )
        return self


class Optimizer(Section):
    """Adam with warm-up.

    warmup: share of all steps. schedule: ``cosine`` to zero, ``constant``, or the paper's
    steps: ``pretrain_paper``, ``finetune_paper``.
    """

    learning_rate: Annotated[float, Field(gt=0)]
    weight_decay: Weight
    warmup: Fraction
    schedule: Literal["cosine", "constant", "pretrain_paper", "finetune_paper"]


class TrainerSettings(Section):
    """How both stages train, whatever they train."""

    precision: Annotated[
        Precision,
        Field(
            description="number format of forward passes: ``auto`` (what is fast on the machine), ``float32``, "
            "``bfloat16`` or ``float16``"
        ),
    ]
    loader_workers: Annotated[
        int,
        Field(ge=0, description="threads of each process that read and decode samples ahead of their use"),
    ]
    shuffle_shards: Annotated[
        Positive,
        Field(
            description="how many shards are mixed at a time; if the number of processes divides it, each "
            "shard is read by one of them"
        ),
    ]
    checkpoint_minutes: Annotated[float, Field(gt=0, description="minutes between two checkpoints")]
    compile: Annotated[bool, Field(description="whether the model is compiled with ``torch.compile``")]


class Pretrain(Section):
    """Stage 1.

    tasks: a block of settings per pretext task, by its name. Every block has a ``weight`` (0 switches the
    task off); what else it holds is declared beside the task, in ``training/pretrain/tasks/``, and checked
    there before anything runs.
    flip: probability that a face is mirrored. patch_fraction: least and greatest side of the random patch
    that most tasks share, as a share of the face's (the paper: 224 / 512 = 0.4375 for both).
    patch_grid: patches are made of whole cells of a grid with so many a side, and classes are counted from
    the stored counts instead of the mask (null: patches lie at any pixel).
    classes: ``all`` 19, or ``merged`` to the 8 of 2021.
    balance: ``gradient`` multiplies the weights of losses by factors that make the norms of their gradients
    on the backbone equal, measured while it trains; ``none`` takes the weights as they are.
    average_decay: decay of the weights' moving average. batch_norm_batches: batches on which the averaged
    network's batch-norm statistics are measured.
    recompute: the branches' activations are computed again in the backward pass instead of kept,
    for less memory and more time. compile: ``torch.compile`` the model.
    batch_size: samples of one optimisation step, over all processes. accumulate: micro-batches into which
    each process divides its share of a batch. clip_norm: greatest norm of all gradients together
    (null: no limit). checkpoint_minutes, keep_checkpoints: how often a checkpoint is written, and how
    many are kept. shuffle_shards: how many shards are mixed at a time; if the number of processes divides it,
    each shard is read by one of them. log_every, validate_every, picture_every: steps between two lines of
    metrics, two validations and two images (the latter two null: only at the end). validate_samples: at most
    so many samples of the val split, evenly spread over it. tensorboard: write TensorBoard's events beside
    DVCLive's files.
    """

    seed: int
    steps: Positive
    batch_size: Annotated[int, Field(ge=2)]
    accumulate: Positive
    optimizer: Optimizer
    clip_norm: Annotated[float, Field(gt=0)] | None
    tasks: dict[str, dict[str, Any]]
    flip: Fraction
    patch_fraction: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=2, max_length=2)]
    patch_grid: Positive | None
    classes: Literal["all", "merged"]
    balance: Literal["none", "gradient"]
    average_decay: Fraction
    precision: Precision
    recompute: bool
    compile: bool
    loader_workers: Annotated[int, Field(ge=0)]
    shuffle_shards: Positive
    checkpoint_minutes: Annotated[float, Field(gt=0)]
    keep_checkpoints: Positive
    log_every: Positive
    validate_every: Positive | None
    validate_samples: Positive
    picture_every: Positive | None
    tensorboard: bool
    batch_norm_batches: Positive

    @model_validator(mode="after")
    def _consistent(self) -> "Pretrain":
        if self.patch_fraction[0] > self.patch_fraction[1]:
            raise ValueError("patch_fraction must be [least, greatest]")
        if self.recompute and self.compile:
            raise ValueError("compiled graphs plan their own memory; set pretrain.recompute=false")
        if self.balance == "gradient" and self.compile:
            raise ValueError(
                "a compiled graph has one backward pass, not one per loss; set pretrain.balance=none, or "
                "pretrain.compile=false"
            )
        return self


class FinetuneRun(Section):
    """One amount of supervision, and how long networks learn from it."""

    labels: Annotated[
        Annotated[float, Field(gt=0, le=1)] | Annotated[str, Field(min_length=1)],
        Field(description="share of the labelled train faces, or the path of a list of their keys"),
    ]
    steps: Annotated[Positive, Field(description="optimisation steps of networks")]


class Finetune(Section):
    """Stage 2: every run once with each method, on the same faces."""

    seed: Annotated[int, Field(description="of label subsets, new heads, order and augmentation")]
    runs: Annotated[
        list[FinetuneRun], Field(min_length=1, description="amounts of labels; they are nested per seed")
    ]
    methods: Annotated[
        list[str],
        Field(
            min_length=1,
            description="ways to get a classifier, of ``scratch``, ``probe``, ``region_probe``, "
            "``pretrained``, ``student`` and ``imagenet``; gains are measured against the first",
        ),
    ]
    batch_size: Annotated[
        int, Field(ge=2, description="labelled faces of an optimisation step, over all processes")
    ]
    learning_rate: Annotated[float, Field(gt=0, description="of Adam, after a warm-up of a tenth of the steps")]
    schedule: Annotated[
        Literal["cosine", "constant", "finetune_paper"],
        Field(description="of the learning rate: ``cosine`` to zero, ``constant``, or the papers' steps"),
    ]
    backbone_rate: Annotated[
        Weight, Field(description="factor on the learning rate of a trained backbone; 0 freezes it")
    ]
    heads_rate: Annotated[
        float, Field(gt=0, description="factor on the learning rate of the heads on trained weights")
    ]
    solve_heads: Annotated[
        bool,
        Field(
            description="whether the heads on trained weights start as logistic regressions on the branches' "
            "features"
        ),
    ]
    average_decay: Annotated[Fraction, Field(description="decay of the moving average of the weights")]
    select: Annotated[
        Literal["val", "crossval", "last"],
        Field(
            description="what chooses the step whose weights are kept and the strength of probes: ``val``, "
            "the val split; ``crossval``, cross-validation among the labelled faces (region_probe; others as "
            "``last``); ``last``, the last step and a fixed strength"
        ),
    ]
    validate_every: Annotated[
        Positive | None, Field(description="steps between two validations; null: only after the last step")
    ]
    groups: Annotated[
        str | None, Field(description="YAML file of attribute names by branch; null: those of CelebA")
    ]
    regions: Annotated[
        str | None, Field(description="YAML file of face regions by attribute; null: those of CelebA")
    ]
    imagenet: Annotated[
        str | None,
        Field(description="state dict of torchvision or timm (.pth, .safetensors) for the method ``imagenet``"),
    ]
    student_steps: Annotated[
        Positive, Field(description="optimisation steps of the method ``student``, whatever the labels")
    ]


class Evaluate(Section):
    """Evaluation on the test split."""

    batch_size: Annotated[Positive, Field(description="faces per batch, here and in predictions")]
    mirrored: Annotated[
        bool,
        Field(
            description="whether networks also see the mirror image of each face, here and in predictions, and "
            "the mean of both logits counts; takes twice the time"
        ),
    ]
    subgroups: Annotated[
        list[str], Field(description="attributes by each of which the faces with and without it are compared")
    ]
    resamples: Annotated[
        Positive,
        Field(description="resamples of the bootstrap over identities, which gives the confidence intervals"),
    ]


class Study(Section):
    """The label-efficiency study: methods x pre-trainings x ``finetune.runs`` x draws."""

    methods: Annotated[
        list[str],
        Field(
            min_length=1,
            description="those that are compared, as in ``finetune.methods``; the ones that start from stage 1 "
            "do so from each pre-training",
        ),
    ]
    pretrainings: Annotated[
        dict[Annotated[str, Field(pattern=r"^[a-z0-9_]+$")], Annotated[list[str], Field(min_length=1)]],
        Field(description="by name, the tasks of ``pretrain.tasks`` that a pre-training has"),
    ]
    pretrain_seeds: Annotated[
        Positive, Field(description="how often each pre-training is run; draws take them in turn")
    ]
    draws: Annotated[Positive, Field(description="draws of the labelled faces; each is a seed of stage 2")]


class Config(Section):
    """The whole configuration, one attribute per section of ``params.yaml``."""

    data: Data
    sample: Sample
    ingest: Ingest
    align: Align
    parse: Parse
    weights: Weights
    cluster: Cluster
    quarantine: Quarantine
    stream: Stream
    network: Network
    trainer: TrainerSettings
    pretrain: Pretrain
    finetune: Finetune
    evaluate: Evaluate
    study: Study

    @model_validator(mode="after")
    def _knows_tasks(self) -> "Config":
        known = self.pretrain.tasks
        for name, tasks in self.study.pretrainings.items():
            if unknown := [task for task in tasks if task not in known]:
                raise ValueError(
                    f"study.pretrainings.{name} lists the task {unknown[0]}; "
                    f"pretrain.tasks has {', '.join(known)}"
                )
        return self


def load(files: Iterable[Path] = (), settings: Iterable[str] = ()) -> Config:
    """Read ``params.yaml``, then `files` over it, then ``key=value`` `settings` over both.

    Raises:
        UserError: a file is missing or is not a YAML mapping, or a key is unknown or ill-typed;
            the message names the file or the key.
    """
    values = read_mapping(PARAMS)
    for file in files:
        merge(values, read_mapping(file), Config, "", str(file))
    for setting in settings:
        merge(values, read_setting(setting), Config, "", f"--set {setting}")
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        lines = [f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors()]
        raise UserError("invalid configuration: " + "; ".join(lines)) from error
