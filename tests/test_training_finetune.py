"""Stage 2: which labels count, which weights learn, which faces choose, and when nothing is done again."""

import copy
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor
from torch_ema import ExponentialMovingAverage

from common.config import Config, load
from common.errors import UserError
from common.layout import Layout
from synthetic.attributes import CELEBA_ATTRIBUTES
from tests.commands import run_command
from tests.test_training_stream import copied, flip_bytes
from training.data import loader as stream
from training.data.label_subsets import write_subsets
from training.data.loader import load as load_batches
from training.data.sampler import sequential_batches
from training.data.samples import Samples, read_samples
from training.engine import checkpoint
from training.engine.average_precision import mean_average_precision
from training.engine.distributed import Ranks
from training.engine.optim import LossCheck, adam_by_group
from training.finetune.initial import initial_classifier
from training.finetune.labels import runs_for
from training.finetune.model_selection import BestWeights, ValidationSet
from training.finetune.runs import finetune
from training.finetune.semi_supervised import PseudoLabelThresholds, Teacher, positive_shares
from training.finetune.solved_heads import solve_heads
from training.finetune.train import TrainingPlan, TrainingResult, learning_rates, train
from training.models import build
from training.models.attribute_groups import branch_groups, read_groups
from training.models.classifier import Classifier, attribute_loss
from training.models.classifier_file import read_classifier
from training.models.imagenet import load_imagenet
from training.models.inference import predict_logits
from training.models.pretrained import load_pretrained, save_pretrained

SMALL = [
    "network.width=8",
    "network.stem=small",
    "network.input_size=32",
    "finetune.runs=[{labels: 0.5, steps: 4}]",
    "finetune.initial=[pretrained]",
    "finetune.batch_size=4",
    "finetune.batch_norm_batches=2",
    "finetune.loader_workers=0",
    "finetune.validate_every=2",
    "finetune.semi_supervised.batch_size=6",
    "finetune.semi_supervised.start=0.5",
    "finetune.semi_supervised.longer=1.5",
]

ALONE = Ranks(0, 1, torch.device("cpu"))


def configured(*settings: str) -> Config:
    return load(settings=[*SMALL, *settings])


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage 1 result with random weights: what matters here is what is done with them."""
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("pretrain") / "pretrained.safetensors"
    save_pretrained(path, build(configured().network), configured())
    return path


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Keys of all samples whose members are read."""
    keys: list[str] = []
    real = stream._Reader._sample

    def sample(self: stream._Reader, index: int) -> object:
        keys.append(self._samples.keys[index])
        return real(self, index)

    monkeypatch.setattr(stream._Reader, "_sample", sample)
    yield keys


def entries(output: Path) -> dict[str, dict[str, object]]:
    return {run["name"]: run for run in json.loads((output / "runs.json").read_text())}


def test_no_member_of_a_test_face_is_read_and_no_val_face_is_trained_on(
    shards: Layout, pretrained: Path, tmp_path: Path, seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    real = LossCheck.add

    def add(losses: LossCheck, loss: Tensor, step: int, indices: Tensor) -> None:
        trained.extend(losses.keys[index] for index in indices.tolist())
        real(losses, loss, step, indices)

    monkeypatch.setattr(LossCheck, "add", add)
    finetune(configured("finetune.initial=[scratch, semi]"), shards, pretrained, tmp_path)
    rows = pq.read_table(shards.samples, columns=["key", "split"]).to_pylist()
    split = {row["key"]: row["split"] for row in rows}
    assert {split[key] for key in seen} == {"train", "val"}
    assert {split[key] for key in trained} == {"train"}
    run = entries(tmp_path)["semi-50%"]
    assert len(set(trained)) == run["faces"]
    assert (entries(tmp_path)["scratch-50%"]["steps"], run["steps"]) == (4, 6)
    assert run["chosen_step"] in (2, 4, 6)
    assert run["val_average_precision"] > 0
    unlabelled = {key for key in seen if split[key] == "train"} - set(trained)
    assert unlabelled, "the semi-supervised run reads faces whose labels it does not have"


@pytest.mark.parametrize("select", ["val", "last"])
def test_solved_heads_rank_the_labelled_faces_before_any_step_unless_weights_are_random(
    shards: Layout, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, select: str
) -> None:
    scores: dict[str, float | None] = {}
    real = train

    def spy(settings: Any, stream: Any, model: Any, plan: TrainingPlan, *rest: Any) -> TrainingResult:
        faces = load_batches(plan.labelled, sequential_batches(plan.labelled, 8), {"jpg"}, 0, stream)
        logits = predict_logits(model, [batch.images for batch in faces], torch.device("cpu"))
        scores[plan.initial] = mean_average_precision(plan.labelled.attributes, logits)
        return real(settings, stream, model, plan, *rest)

    monkeypatch.setattr("training.finetune.runs.train", spy)
    initial = "finetune.initial=[scratch, pretrained, semi]"
    settings = ["finetune.solve_heads=true", f"finetune.select={select}", initial]
    finetune(configured(*settings), shards, pretrained, tmp_path)
    assert scores["scratch"] is not None
    assert scores["pretrained"] is not None
    assert scores["pretrained"] == scores["semi"]
    assert scores["pretrained"] > scores["scratch"] + 0.2


def test_a_broken_face_is_replaced_with_its_labels_where_heads_are_solved(
    shards: Layout, pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configured("finetune.select=last")
    samples = read_samples(copied(shards, tmp_path / "copy"), ("train",)).labelled()
    first, last = samples.take(np.arange(8)), samples.take(np.arange(8, len(samples)))

    def solved(labelled: Samples) -> dict[str, Tensor]:
        groups = read_groups()
        model = initial_classifier(
            "pretrained", pretrained, config.network, samples.attribute_names, groups, 0
        )
        val = ValidationSet(config.finetune, 32, config.stream, shards)
        solve_heads(model, labelled, last, val, config.finetune, config.stream, torch.device("cpu"))
        return model.heads.state_dict()

    expected = solved(samples.take(np.array([0, 1, 3, 3, 4, 5, 6, 7])))
    flip_bytes(samples, 2)
    assert all(torch.equal(weights, expected[name]) for name, weights in solved(first).items())
    assert f"sample {samples.keys[2]}: jpg: CRC-32" in capsys.readouterr().err


def test_faces_of_the_unlabelled_split_serve_where_no_label_is_needed(
    shards: Layout, tmp_path: Path, pretrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = replace(shards, manifests=tmp_path / "manifests")
    (tmp_path / "manifests").mkdir()
    table = pq.read_table(shards.samples)
    splits = table["split"].to_pylist()
    moved = splits.index("train")
    splits[moved] = "unlabelled"
    index = table.column_names.index("split")
    pq.write_table(table.set_column(index, "split", pa.array(splits)), copy.samples)
    plans: list[TrainingPlan] = []
    real = train

    def spy(settings: Any, stream: Any, model: Any, plan: TrainingPlan, *rest: Any) -> TrainingResult:
        plans.append(plan)
        return real(settings, stream, model, plan, *rest)

    monkeypatch.setattr("training.finetune.runs.train", spy)
    finetune(
        configured("finetune.initial=[semi]", "finetune.batch_norm_faces=all"), copy, pretrained, tmp_path
    )
    key = table["key"][moved].as_py()
    (plan,) = plans
    assert plan.unlabelled is not None
    assert key in plan.unlabelled.keys and key in plan.batch_norm.keys
    assert key not in plan.labelled.keys
    assert len(plan.batch_norm) == splits.count("train") + 1 > len(plan.labelled)


def test_the_kept_weights_are_those_of_the_best_step_on_val() -> None:
    best = BestWeights()
    for step, score in enumerate((0.3, 0.5, 0.4, 0.5)):
        best.offer(step, score, lambda step=step: {"weight": torch.full((1,), float(step))})
    assert (best.step, best.score, best.weights["weight"].item()) == (1, 0.5, 1.0)
    best = BestWeights()
    for step in (2, 4):
        best.offer(step, None, lambda step=step: {"weight": torch.full((1,), float(step))})
    assert (best.step, best.weights["weight"].item()) == (4, 4.0)


def test_the_score_on_val_leaves_out_what_it_cannot_tell() -> None:
    labels = np.array([[1, 1, -1], [0, 1, 1], [1, 1, -1], [0, 1, 0]], np.int8)
    logits = np.array([[3, 0, 9], [1, 0, 2], [2, 0, 8], [0, 0, 1]], np.float32)
    assert mean_average_precision(labels, logits) == 1.0
    assert mean_average_precision(labels[:, 1:2], logits[:, 1:2]) is None


def test_a_missing_label_changes_neither_loss_nor_gradient() -> None:
    model = Classifier(configured().network, CELEBA_ATTRIBUTES)
    labels = torch.randint(0, 2, (4, 40), generator=torch.Generator().manual_seed(0))
    labels[1, 3:9] = -1
    logits = torch.randn(4, 40, requires_grad=True)
    attribute_loss(logits, labels, model.groups).backward()
    assert logits.grad is not None
    assert logits.grad[1, 3:9].abs().sum() == 0
    assert (logits.grad[labels >= 0] != 0).all()


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Parameter groups of which a parameter has changed; running statistics are no parameters."""
    groups = set()
    for name, value in before.items():
        if "running" not in name and "num_batches" not in name and not torch.equal(value, after[name]):
            branch = name.startswith("network.branches.")
            groups.add("heads" if name.startswith("heads.") else "branches" if branch else "backbone")
    return groups


@pytest.mark.parametrize(
    ("settings", "trained"),
    [
        (["finetune.rates={backbone: 0.0, branches: 1.0, heads: 1.0}"], {"branches", "heads"}),
        (["finetune.frozen_steps=4"], {"branches", "heads"}),
        (["finetune.frozen_steps=3"], {"backbone", "branches", "heads"}),
    ],
)
def test_a_frozen_backbone_stays_as_stage_1_left_it(
    shards: Layout, pretrained: Path, tmp_path: Path, settings: list[str], trained: set[str]
) -> None:
    config = configured("finetune.validate_every=null", *settings)
    finetune(config, shards, pretrained, tmp_path)
    before = Classifier(config.network, CELEBA_ATTRIBUTES)
    load_pretrained(before.network, config.network, pretrained)
    after = read_classifier(tmp_path / "pretrained-50%" / "classifier.pt")
    assert changed(before.state_dict(), after.state_dict()) == trained


def test_from_scratch_nothing_is_frozen() -> None:
    config = configured(
        "finetune.rates={backbone: 0.0, branches: 0.5, heads: 2.0}", "finetune.scratch_rate=0.003"
    )
    rate = config.finetune.optimizer.learning_rate
    assert list(learning_rates(config.finetune, "pretrained").values()) == [0.0, 0.5 * rate, 2.0 * rate]
    assert list(learning_rates(config.finetune, "scratch").values()) == [0.003] * 3


def test_each_parameter_group_learns_at_its_own_rate() -> None:
    config = configured("finetune.rates={backbone: 0.1, branches: 1.0, heads: 10.0}")
    model = Classifier(config.network, CELEBA_ATTRIBUTES)
    before = copy.deepcopy(model.state_dict())
    optimizer = adam_by_group(model.parameter_groups(), learning_rates(config.finetune, "pretrained"), 0.0)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    after = model.state_dict()
    # Adam's first step is as long as the rate, whatever the gradient.
    for name, factor in {
        "network.stem.0.weight": 0.1,
        "network.branches.upper.1.channel.1.weight": 1,
        "heads.upper.weight": 10,
    }.items():
        moved = (after[name] - before[name]).abs().max().item()
        assert moved == pytest.approx(factor * config.finetune.optimizer.learning_rate, rel=0.05)


def test_groups_come_from_a_file_and_go_with_the_classifier(
    shards: Layout, pretrained: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text("upper: [Eyeglasses, Bangs]\nlower: [Smiling]\n")
    finetune(configured(f"finetune.groups={tmp_path / 'mine.yaml'}"), shards, pretrained, tmp_path)
    model = read_classifier(tmp_path / "pretrained-50%" / "classifier.pt")
    assert {branch: len(head.bias) for branch, head in model.heads.items()} == {
        "whole": 37,
        "upper": 2,
        "lower": 1,
    }
    assert model.groups["upper"] == [5, 15]
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 40)


def test_other_label_sets_make_one_group() -> None:
    assert branch_groups(("age", "height")) == {"whole": [0, 1]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("upper: [Bangs]\nlower: [Bangs]\n", "Bangs is listed twice"),
        ("nose: [Big_Nose]\n", "nose is not a branch"),
        ("upper: Bangs\n", "upper must be a list"),
        ("[Bangs]\n", "under any of whole, upper"),
        ("{", "expected the node content"),
    ],
)
def test_a_file_of_groups_that_is_none_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "groups.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_groups(tmp_path / "groups.yaml")


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_a_published_resnet_gives_its_backbone(tmp_path: Path, ending: str) -> None:
    torch.manual_seed(1)
    theirs = torchvision.models.resnet18(weights=None).eval()
    path = tmp_path / f"resnet18.{ending}"
    save_file(theirs.state_dict(), path) if ending == "safetensors" else torch.save(theirs.state_dict(), path)
    ours = build(imagenet("resnet18", path).network).eval()
    load_imagenet(ours, path)
    images = torch.randn(2, 3, 64, 64)
    theirs.fc = torch.nn.Identity()
    with torch.no_grad():
        assert torch.allclose(ours(images).backbone.mean((2, 3)), theirs(images), atol=1e-4)


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "resnet18", "convnext_atto"])
def test_a_timm_model_gives_its_backbone(tmp_path: Path, name: str) -> None:
    torch.manual_seed(1)
    theirs = timm.create_model(name, pretrained=False).eval()
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "weights.pth")
    ours = build(imagenet(f"timm:{name}", tmp_path / "weights.pth").network).eval()
    load_imagenet(ours, tmp_path / "weights.pth")
    given = theirs.state_dict()
    state = ours.state_dict()
    first = next(name for name in state if name.endswith("weight") and state[name].dim() == 4)
    assert any(
        torch.equal(state[first], value) for value in given.values() if value.shape == state[first].shape
    )
    named = {key.replace(".", "_"): value for key, value in given.items()}
    for key, value in state.items():
        assert torch.equal(value, named[key.removeprefix("backbone.model.").replace(".", "_")]), key


def imagenet(name: str, path: Path) -> Config:
    return configured(
        f"network.name={name}",
        "network.width=null",
        "network.stem=large",
        f"finetune.imagenet={path}",
        "finetune.initial=[imagenet]",
    )


def test_imagenet_weights_that_do_not_fit_are_refused(
    shards: Layout, pretrained: Path, tmp_path: Path
) -> None:
    path = tmp_path / "resnet18.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    spl = configured(f"finetune.imagenet={path}", "finetune.initial=[imagenet]")
    with pytest.raises(UserError, match="no published ImageNet weights of spl"):
        finetune(spl, shards, pretrained, tmp_path / "runs")
    with pytest.raises(UserError, match="of another model .* no layer1.2.conv1.weight"):
        load_imagenet(build(imagenet("resnet34", path).network), path)
    narrow = load(settings=[*SMALL, "network.name=resnet18"])
    with pytest.raises(UserError, match="network.width=null"):
        load_imagenet(build(narrow.network), path)
    path.write_bytes(b"junk")
    with pytest.raises(UserError, match="finetune.imagenet"):
        load_imagenet(build(imagenet("resnet18", path).network), path)
    with pytest.raises(UserError, match="set finetune.imagenet"):
        configured("finetune.initial=[imagenet]")


def test_a_network_learns_from_imagenet_weights(shards: Layout, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(timm.create_model("mobilenetv3_small_050", pretrained=False).state_dict(), path)
    finetune(imagenet("timm:mobilenetv3_small_050", path), shards, tmp_path / "none", tmp_path / "runs")
    assert entries(tmp_path / "runs")["imagenet-50%"]["steps"] == 4


def test_every_attribute_gets_pseudo_labels_as_often_as_it_has_labels() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.zeros(100, 3, dtype=torch.int8)
    labels[:4, 0], labels[:60, 1] = 1, 1  # rare, common, and never seen
    thresholds = PseudoLabelThresholds(positive_shares(labels), keep=0.5, window=400, ranks=ALONE)
    # A teacher that says no to the rare attribute for every face: a threshold of 0.5 would never give a yes.
    logits = torch.randn(400, 3, generator=generator) + torch.tensor([-6.0, 1.0, 0.0])
    assert (logits[:, 0] < 0).all()
    labels = thresholds.pseudo_labels(logits)
    counts = [[int((labels[:, column] == label).sum()) for label in (1, 0, -1)] for column in range(3)]
    assert counts == [[8, 192, 200], [120, 80, 200], [0, 0, 400]]
    assert logits[labels[:, 0] == 1, 0].min() > logits[labels[:, 0] == -1, 0].max()


def test_thresholds_follow_the_recent_answers_alone() -> None:
    thresholds = PseudoLabelThresholds(torch.tensor([0.5]), keep=1.0, window=4, ranks=ALONE)
    thresholds.pseudo_labels(torch.tensor([[100.0], [101.0], [102.0], [103.0]]))
    assert thresholds.pseudo_labels(torch.tensor([[0.0], [1.0], [2.0], [3.0]])).flatten().tolist() == [
        0,
        0,
        1,
        1,
    ]


@pytest.mark.parametrize("soft", ["true", "false"])
def test_the_teacher_is_the_average_and_is_not_trained(soft: str) -> None:
    config = configured("finetune.semi_supervised.keep=0.5", f"finetune.semi_supervised.soft={soft}")
    torch.manual_seed(0)
    model = Classifier(config.network, CELEBA_ATTRIBUTES)
    average = ExponentialMovingAverage(model.parameters(), 0.5, use_num_updates=False)
    labels = torch.randint(0, 2, (50, 40))
    settings = config.finetune.semi_supervised
    thresholds = PseudoLabelThresholds(positive_shares(labels), settings.keep, settings.recent, ALONE)
    teacher = Teacher(model, average, thresholds, settings.soft)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    average.update()
    before = copy.deepcopy(teacher._network.state_dict())
    targets = teacher.targets(torch.randn(8, 3, 32, 32))
    for mine, shadow in zip(teacher._network.parameters(), average.shadow_params, strict=True):
        assert torch.equal(mine, shadow)
        assert not mine.requires_grad
    assert all(torch.equal(before[name], value) for name, value in teacher._network.state_dict().items())
    given = targets[targets >= 0]
    assert 0 < len(given) < targets.numel()
    assert set(targets[targets < 0].tolist()) == {-1.0}
    assert (set(given.tolist()) == {0.0, 1.0}) == (soft == "false")


def test_a_finished_run_is_trained_again_only_if_something_changed(
    shards: Layout,
    pretrained: Path,
    tmp_path: Path,
    seen: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finetune(configured(), shards, pretrained, tmp_path)
    first, file = entries(tmp_path), tmp_path / "pretrained-50%" / "classifier.pt"
    written = file.stat().st_mtime_ns
    seen.clear()
    finetune(configured("finetune.loader_workers=1"), shards, pretrained, tmp_path)
    assert (entries(tmp_path), file.stat().st_mtime_ns, seen) == (first, written, [])
    assert "pretrained-50% is up to date" in capsys.readouterr().out
    written = file.stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr("training.finetune.runs.code_hash", lambda module: "other code")
        finetune(configured(), shards, pretrained, tmp_path)
    assert file.stat().st_mtime_ns > written
    other = tmp_path / "other.safetensors"
    torch.manual_seed(6)
    save_pretrained(other, build(configured().network), configured())
    for config, weights in (
        (configured("finetune.seed=1"), pretrained),
        (configured("finetune.augment.rotate=5.0"), pretrained),
        (configured(), other),
    ):
        written = file.stat().st_mtime_ns
        finetune(config, shards, weights, tmp_path)
        assert file.stat().st_mtime_ns > written


def test_a_run_that_was_stopped_is_trained_to_the_end(
    shards: Layout, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("training.finetune.train.adam_by_group", stop)
        with pytest.raises(KeyboardInterrupt):
            finetune(configured(), shards, pretrained, tmp_path)
    assert not (tmp_path / "runs.json").exists()
    finetune(configured(), shards, pretrained, tmp_path)
    assert list(entries(tmp_path)) == ["pretrained-50%"]


@pytest.mark.parametrize(("step", "ending"), [(2, "an error"), (4, "SIGTERM")])
def test_a_run_that_was_interrupted_ends_with_the_same_weights_digit_for_digit(
    shards: Layout, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, ending: str
) -> None:
    config = configured("finetune.initial=[semi]", "finetune.frozen_steps=1")

    real = LossCheck.add

    def interrupt(losses: LossCheck, loss: Tensor, now: int, indices: Tensor) -> None:
        real(losses, loss, now, indices)
        if now == step and ending == "SIGTERM":
            os.kill(os.getpid(), signal.SIGTERM)
        elif now == step:
            raise UserError("the store has been away for ten minutes")

    with monkeypatch.context() as patch, pytest.raises((UserError, SystemExit)):
        patch.setattr(LossCheck, "add", interrupt)
        finetune(config, shards, pretrained, tmp_path / "interrupted")
    done = step + 1 if ending == "SIGTERM" else step
    folder = tmp_path / "interrupted" / "semi-50%"
    assert [path.name for path in (folder / "checkpoints").iterdir()] == [f"step-{done:09d}.pt"]
    for output in ("interrupted", "whole"):
        finetune(config, shards, pretrained, tmp_path / output)
    one, other = (entries(tmp_path / name)["semi-50%"] for name in ("interrupted", "whole"))
    assert {**one, "seconds": 0} == {**other, "seconds": 0}
    weights = [
        checkpoint.load(tmp_path / name / "semi-50%" / "classifier.pt")["model"]
        for name in ("interrupted", "whole")
    ]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert not (folder / "checkpoints").exists()


def test_a_checkpoint_of_other_settings_is_kept_beside_and_the_run_starts_anew(
    shards: Layout,
    pretrained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(_: LossCheck, loss: Tensor, now: int, indices: Tensor) -> None:
        if now == 2:
            raise UserError("the store has been away for ten minutes")

    with monkeypatch.context() as patch, pytest.raises(UserError):
        patch.setattr(LossCheck, "add", fail)
        finetune(configured(), shards, pretrained, tmp_path)
    finetune(configured("finetune.batch_size=2"), shards, pretrained, tmp_path)
    folder = tmp_path / "pretrained-50%"
    assert [path.name for path in (folder / "checkpoints-1").iterdir()] == ["step-000000002.pt"]
    assert (folder / "classifier.pt").is_file()
    said = capsys.readouterr().out
    assert "starting anew" in said
    assert f"kept in {folder / 'checkpoints-1'}" in said


def test_labels_on_the_command_line_replace_the_configured_runs(
    shards: Layout, pretrained: Path, tmp_path: Path
) -> None:
    (listed,) = write_subsets(shards, [0.5], 3, tmp_path)
    flags = ["--shards", shards.shards, "--output", tmp_path, "--labels", "25%", listed]
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain" / "pretrained.safetensors").write_bytes(pretrained.read_bytes())
    settings = [word for setting in SMALL for word in ("--set", setting)]
    assert run_command("training.run", "--stage", "finetune", *flags, *settings).returncode == 0
    runs = entries(tmp_path / "finetune")
    count = len(read_samples(shards, ("train",)).labelled())
    assert {name: run["faces"] for name, run in runs.items()} == {
        "pretrained-25%": round(0.25 * count),
        "pretrained-seed3-50%": round(0.5 * count),
    }
    states = [checkpoint.load(tmp_path / "finetune" / name / "classifier.pt") for name in runs]
    assert [len(state["attributes"]) for state in states] == [40, 40]


def test_labels_take_the_steps_of_the_nearest_run(shards: Layout) -> None:
    config = configured("finetune.runs=[{labels: 0.1, steps: 7}, {labels: 1.0, steps: 9}]")
    runs = runs_for(["0.2", "60%"], config.finetune, shards)
    assert [(run.labels, run.steps) for run in runs] == [(0.2, 7), (0.6, 9)]
    with pytest.raises(UserError, match="no such file, and 'half' is no share"):
        runs_for(["half"], config.finetune, shards)
