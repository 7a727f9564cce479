"""The configuration: typed, validated, and with one owner per setting.

``params.yaml`` at the root of the project holds every value; the classes here
say what is allowed and have no defaults of their own. A file given with
``--config`` and ``--set key=value`` override single values, in that order.
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import Field, ValidationError, model_validator

from common.config_files import merge, read_mapping, read_setting
from common.errors import UserError
from common.pipeline_config import Align, Cluster, Data, Ingest, Parse, Quarantine, Sample, Stream, Weights
from common.section import Fraction, Positive, Precision, Section, Weight

CHECKOUT: Final = Path(__file__).resolve().parent.parent
PARAMS: Final = (
    CHECKOUT if (CHECKOUT / "params.yaml").is_file() else Path(sys.prefix, "share", "sspl-faces")
) / "params.yaml"
"""The values of all settings; without a checkout, where the installation puts them."""


ProbeName = Literal["probe", "embedding_probe", "region_probe"]
"""An initialisation of stage 2 that is fitted to stored features, without a network."""


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


class Augment(Section):
    """Random augmentation of a training image in stage 2.

    flip, gray: probabilities. rotate: largest angle in degrees. zoom: largest relative change of scale.
    shift: largest translation as a share of the side. color: largest relative change of brightness,
    contrast and saturation. erase: largest side of the square that is greyed out, as a share of the side.
    """

    flip: Fraction
    rotate: Annotated[float, Field(ge=0, le=180)]
    zoom: Annotated[float, Field(ge=0, lt=1)]
    shift: Fraction
    color: Annotated[float, Field(ge=0, lt=1)]
    gray: Fraction
    erase: Fraction


class FinetuneRun(Section):
    """One amount of supervision.

    labels: a share of the labelled train faces, or the path of a list that ``training.subsets``
    wrote. steps: optimisation steps.
    """

    labels: Annotated[float, Field(gt=0, le=1)] | Annotated[str, Field(min_length=1)]
    steps: Positive


class Rates(Section):
    """Factors on the learning rate of each parameter group of trained weights; 0 freezes the group.

    From scratch they do not apply: all groups have ``scratch_rate``.
    """

    backbone: Weight
    branches: Weight
    heads: Annotated[float, Field(gt=0)]


class SemiSupervised(Section):
    """Unlabelled train faces in stage 2; the averaged network is the teacher.

    longer: factor on a run's steps and on ``frozen_steps``, since unlabelled faces keep a longer run from
    overfitting the few labelled ones. batch_size: unlabelled faces per step. start: share of the steps
    before the first of them. weight: of their loss. keep: share of them that gets a pseudo-label, per
    attribute and class. soft: the target is the teacher's probability instead of 0 or 1. recent: faces
    whose logits the thresholds are computed from. augment: what the student sees.
    """

    longer: Annotated[float, Field(ge=1)]
    batch_size: Positive
    start: Annotated[float, Field(ge=0, lt=1)]
    weight: Weight
    keep: Annotated[float, Field(gt=0, le=1)]
    soft: bool
    recent: Positive
    augment: Augment


class Student(Section):
    """A network that learns a region probe's probabilities of all train faces, with and without labels.

    steps: optimisation steps, whatever the number of labels. batch_size: faces of one of them, over all
    processes.
    """

    steps: Positive
    batch_size: Annotated[int, Field(ge=2)]


class Finetune(Section):
    """Stage 2: every run once per initialisation, on the same faces for the same steps.

    initial: ``scratch``; ``pretrained`` by stage 1; ``semi``: by stage 1, and with pseudo-labels of
    the unlabelled faces; ``probe``: logistic regression on the parser's stored features, or on the class
    counts of shards without, instead of a network; ``embedding_probe``: the same on the features of the
    network that ``parse.features_from`` named; ``region_probe``: kernel regression that compares
    the regions which show an attribute; ``student``: by stage 1, and trained on the probabilities that this
    regression gives all train faces; ``imagenet``: the file that `imagenet` names (a state dict of
    torchvision or timm, .pth or .safetensors; networks ``resnet*`` and ``timm:`` only).
    groups: YAML file of attribute names by branch; null: training/models/attribute_groups.yaml.
    regions: YAML file of face regions by attribute; null: training/models/attribute_regions.yaml.
    select: what chooses the step whose weights are kept, and the strength of probes: ``val``, the val
    split; ``crossval``, cross-validation among the labelled train faces (region_probe; others as last);
    ``last``, nothing: the last step and a fixed strength.
    solve_heads: the heads on trained weights start as logistic regressions on the branches' features, with a
    strength that val chooses with ``select`` ``val`` (not of a student), so that ``rates.heads`` may be low.
    frozen_steps: steps before a trained backbone is trained further. scratch_rate: learning rate from
    scratch. validate_every: steps between two validations, of which the best one's weights are kept
    (null: those of the last step). batch_norm_faces: on which train faces the kept weights' batch-norm
    statistics are measured, those whose labels are used or all. validate_samples: at most so many faces of
    the val split.
    batch_size: of one optimisation step, over all processes. checkpoint_minutes, keep_checkpoints: as in
    stage 1.
    """

    seed: int
    runs: Annotated[list[FinetuneRun], Field(min_length=1)]
    initial: Annotated[
        list[Literal["scratch", ProbeName, "pretrained", "semi", "student", "imagenet"]],
        Field(min_length=1),
    ]
    imagenet: str | None
    groups: str | None
    regions: str | None
    select: Literal["val", "crossval", "last"]
    batch_size: Annotated[int, Field(ge=2)]
    optimizer: Optimizer
    rates: Rates
    solve_heads: bool
    frozen_steps: Annotated[int, Field(ge=0)]
    scratch_rate: Annotated[float, Field(gt=0)]
    augment: Augment
    average_decay: Fraction
    precision: Precision
    loader_workers: Annotated[int, Field(ge=0)]
    shuffle_shards: Positive
    batch_norm_batches: Positive
    batch_norm_faces: Literal["labelled", "all"]
    checkpoint_minutes: Annotated[float, Field(gt=0)]
    keep_checkpoints: Positive
    validate_every: Positive | None
    validate_samples: Positive
    semi_supervised: SemiSupervised
    student: Student

    @model_validator(mode="after")
    def _has_weights(self) -> "Finetune":
        if "imagenet" in self.initial and self.imagenet is None:
            raise ValueError("initial imagenet needs a file of weights; set finetune.imagenet to its path")
        return self


class Evaluate(Section):
    """Evaluation.

    batch_size: faces per batch. precision: of networks, here and in predictions. mirrored: networks also
    see the mirror image of each face, here and in predictions, and the mean of both logits counts.
    subgroups: attributes by each of which the faces with and without it are compared. resamples, seed: of
    the bootstrap over identities, which gives the confidence intervals.
    """

    batch_size: Positive
    precision: Precision
    mirrored: bool
    subgroups: list[str]
    resamples: Positive
    seed: int


class Study(Section):
    """The label-efficiency study: initialisations x label shares x seeds; scratch always takes part.

    pretrainings: by name, the pretext tasks of stage 1 that are trained; their weights are those of
    ``pretrain.tasks``. pretrain_steps: by name, the steps of those that do not take ``pretrain.steps``, so
    that all may take equal time. pretrain_seeds: how often each is trained; cells take them in turn.
    baselines: other initialisations than scratch without pre-training. semi, student: pre-trainings from
    which semi-supervised fine-tuning and the region probe's student start too. labels: shares of the
    labelled train faces. steps: optimisation steps for each share. draws: how many of `seeds` each share
    takes. seeds: of label subsets and fine-tuning.
    """

    pretrainings: dict[Annotated[str, Field(pattern=r"^[\w-]+$")], Annotated[list[str], Field(min_length=1)]]
    pretrain_steps: dict[str, Positive]
    pretrain_seeds: Positive
    baselines: list[ProbeName]
    semi: list[str]
    student: list[str]
    labels: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)]
    steps: list[Positive]
    draws: list[Positive]
    seeds: Annotated[list[int], Field(min_length=1)]

    @model_validator(mode="after")
    def _complete(self) -> "Study":
        for name, values in (("steps", self.steps), ("draws", self.draws)):
            if len(self.labels) != len(values):
                raise ValueError(f"study.{name} must have one number for each of study.labels")
        for name, names in (
            ("semi", self.semi),
            ("student", self.student),
            ("pretrain_steps", self.pretrain_steps),
        ):
            if not set(names) <= set(self.pretrainings):
                raise ValueError(f"study.{name} must name some of study.pretrainings")
        if reserved := [
            name
            for name in self.pretrainings
            if name in ("scratch", *get_args(ProbeName)) or name.startswith(("semi-", "student-"))
        ]:
            raise ValueError(f"study.pretrainings.{reserved[0]} is a reserved name; rename it")
        return self


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
