"""Stage 2: which labels count, which weights learn, which faces choose, and when nothing is done again."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from common.config import Config, load
from common.errors import UserError
from common.layout import Layout
from tests.commands import run_command
from tests.test_training_data import flip_bytes
from training.data import loader as stream
from training.data.label_subsets import write_subsets
from training.data.samples import Samples, read_samples
from training.engine.distributed import Ranks
from training.engine.objective import mean_average_precision
from training.engine.optim import LossCheck
from training.methods.method import Context
from training.methods.network import initial_network
from training.methods.pretrained import solve_heads
from training.methods.runs import finetune
from training.models import build
from training.models.attribute_network import read_groups
from training.models.classifier import NetworkClassifier, load_classifier, sample_probabilities
from training.models.pretrained import load_pretrained, save_pretrained

SMALL = [
    *("network.width=8", "network.stem=small", "network.input_size=32"),
    *("finetune.runs=[{labels: 0.5, steps: 4}]", "finetune.methods=[pretrained]", "finetune.batch_size=4"),
    *("finetune.select=val", "finetune.validate_every=2", "trainer.loader_workers=0"),
]


def configured(*settings: str) -> Config:
    return load(settings=[*SMALL, *settings])


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A stage 1 result with random weights: what matters here is what is done with them."""
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("pretrain") / "pretrained.safetensors"
    save_pretrained(path, build(configured().network), configured())
    return path


@pytest.fixture
def seen(monkeypatch):
    """Keys of all samples whose members are read."""
    keys: list[str] = []
    real = stream._Reader._sample

    def sample(self: stream._Reader, index: int) -> object:
        keys.append(self._samples.keys[index])
        return real(self, index)

    monkeypatch.setattr(stream._Reader, "_sample", sample)
    return keys


def entries(output: Path) -> dict[str, dict[str, object]]:
    return {run["name"]: run for run in json.loads((output / "runs.json").read_text())}


def test_no_test_face_is_read_and_no_val_face_is_trained_on(shards, pretrained, tmp_path, seen, monkeypatch):
    trained: list[str] = []
    monkeypatch.setattr(
        LossCheck,
        "add",
        lambda losses, loss, step, indices: trained.extend(losses.keys[i] for i in indices.tolist()),
    )
    finetune(configured("finetune.methods=[scratch, pretrained]"), shards, pretrained, tmp_path)
    split = {row["key"]: row["split"] for row in pq.read_table(shards.samples).to_pylist()}
    assert {split[key] for key in seen} == {"train", "val"}
    assert {split[key] for key in trained} == {"train"}
    run = entries(tmp_path)["pretrained-50%"]
    assert (len(set(trained)), run["steps"], run["chosen_step"] in (2, 4)) == (run["faces"], 4, True)
    assert run["val_average_precision"] > 0
    unlabelled = {key for key in seen if split[key] == "train"} - set(trained)
    assert unlabelled, "batch norm is measured on faces whose labels are not used, too"


def context_of(config: Config, layout: Layout) -> Context:
    return Context(config, layout, Ranks(0, 1, torch.device("cpu")), "auto")


def test_solved_heads_rank_the_labelled_faces_before_any_step(shards, pretrained):
    config = configured()
    context = context_of(config, shards)
    labelled, scores = context.labelled.take(np.arange(12)), []
    for solves in (False, True):
        model = initial_network(context)
        load_pretrained(model.network, config.network, pretrained)
        if solves:
            solve_heads(context, model, labelled)
        classifier = NetworkClassifier(attributes=model.attributes, model=model)
        probabilities = sample_probabilities(classifier, labelled, config.stream, 8, "test")
        scores.append(mean_average_precision(labelled.attributes, probabilities) or 0.0)
    assert scores[1] > scores[0] + 0.2


def test_a_broken_face_is_replaced_with_its_labels_where_heads_are_solved(shards, copy, pretrained, capsys):
    config = configured("finetune.select=labels")
    samples = read_samples(copy, ("train",)).labelled()
    first = samples.take(np.arange(8))

    def solved(labelled: Samples) -> dict[str, Tensor]:
        context = context_of(config, shards)
        model = initial_network(context)
        load_pretrained(model.network, config.network, pretrained)
        solve_heads(context, model, labelled)
        return model.heads.state_dict()

    expected = solved(samples.take(np.array([0, 1, 3, 3, 4, 5, 6, 7])))
    flip_bytes(samples, 2)
    assert all(torch.equal(weights, expected[name]) for name, weights in solved(first).items())
    assert f"sample {samples.keys[2]}: jpg: CRC-32" in capsys.readouterr().err


def test_the_score_on_val_leaves_out_what_it_cannot_tell():
    labels = np.array([[1, 1, -1], [0, 1, 1], [1, 1, -1], [0, 1, 0]], np.int8)
    logits = np.array([[3, 0, 9], [1, 0, 2], [2, 0, 8], [0, 0, 1]], np.float32)
    assert mean_average_precision(labels, logits) == 1.0
    assert mean_average_precision(labels[:, 1:2], logits[:, 1:2]) is None


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Parameter groups of which a parameter has changed; running statistics are no parameters."""
    groups = set()
    for name, value in before.items():
        if "running" not in name and "num_batches" not in name and not torch.equal(value, after[name]):
            branch = name.startswith("network.branches.")
            groups.add("heads" if name.startswith("heads.") else "branches" if branch else "backbone")
    return groups


@pytest.mark.parametrize(
    ("method", "rate", "trained"),
    [
        ("pretrained", 0.0, {"branches", "heads"}),
        ("pretrained", 1.0, {"backbone", "branches", "heads"}),
        ("scratch", 0.0, {"backbone", "branches", "heads"}),
    ],
)
def test_a_rate_of_0_freezes_a_trained_backbone(shards, pretrained, tmp_path, method, rate, trained):
    settings = (f"finetune.methods=[{method}]", f"finetune.backbone_rate={rate}")
    config = configured("finetune.validate_every=null", *settings)
    before = initial_network(context_of(config, shards))
    if method == "pretrained":
        load_pretrained(before.network, config.network, pretrained)
    finetune(config, shards, pretrained, tmp_path)
    after = load_classifier(tmp_path / f"{method}-50%" / "classifier.pt").network
    assert changed(before.state_dict(), after.state_dict()) == trained


def test_groups_come_from_a_file_and_go_with_the_classifier(shards, pretrained, tmp_path):
    (tmp_path / "mine.yaml").write_text("upper: [Eyeglasses, Bangs]\nlower: [Smiling]\n")
    finetune(configured(f"finetune.groups={tmp_path / 'mine.yaml'}"), shards, pretrained, tmp_path)
    model = load_classifier(tmp_path / "pretrained-50%" / "classifier.pt").network
    sizes = {branch: len(head.bias) for branch, head in model.heads.items()}
    assert (sizes, model.groups["upper"]) == ({"whole": 37, "upper": 2, "lower": 1}, [5, 15])
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 40)


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
def test_a_file_of_groups_that_is_none_is_refused(tmp_path, text, message):
    (tmp_path / "groups.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_groups(tmp_path / "groups.yaml")


def test_a_finished_run_is_trained_again_only_if_something_changed(
    shards, pretrained, tmp_path, seen, capsys, monkeypatch
):
    def written(*settings: str, weights: Path = pretrained) -> int:
        finetune(configured(*settings), shards, weights, tmp_path)
        return (tmp_path / "pretrained-50%" / "classifier.pt").stat().st_mtime_ns

    first, before = written(), entries(tmp_path)
    seen.clear()
    assert written("trainer.loader_workers=1", "evaluate.batch_size=7") == first
    assert (entries(tmp_path), seen) == (before, [])
    assert "pretrained-50% is up to date" in capsys.readouterr().out
    other = tmp_path / "other.safetensors"
    torch.manual_seed(6)
    save_pretrained(other, build(configured().network), configured())
    assert (second := written(weights=other)) > first
    monkeypatch.setattr("training.methods.runs.code_hash", lambda module: "other code")
    assert written(weights=other) > second


@pytest.mark.parametrize(("step", "ending"), [(2, "an error"), (1, "SIGTERM")])
def test_a_run_that_was_interrupted_ends_with_the_same_weights_digit_for_digit(
    shards, pretrained, tmp_path, monkeypatch, step, ending
):
    config, real = configured(), LossCheck.add

    def interrupt(losses: LossCheck, loss: Tensor, now: int, indices: Tensor) -> None:
        real(losses, loss, now, indices)
        if now == step and ending == "SIGTERM":
            os.kill(os.getpid(), signal.SIGTERM)
        elif now == step:
            raise UserError("the store has been away for ten minutes")

    with monkeypatch.context() as patch, pytest.raises((UserError, SystemExit)):
        patch.setattr(LossCheck, "add", interrupt)
        finetune(config, shards, pretrained, tmp_path / "interrupted")
    checkpoints = tmp_path / "interrupted" / "pretrained-50%" / "checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == ["step-000000002.pt"]
    results = []
    for output in (tmp_path / "interrupted", tmp_path / "whole"):
        finetune(config, shards, pretrained, output)
        entry, file = entries(output)["pretrained-50%"], output / "pretrained-50%" / "classifier.pt"
        results.append(({**entry, "seconds": 0}, load_classifier(file).identity))
    assert results[0] == results[1]
    assert not checkpoints.exists()


def test_labels_on_the_command_line_replace_the_configured_runs(shards, pretrained, tmp_path):
    (listed,) = write_subsets(shards, [0.5], 3, tmp_path)
    (tmp_path / "pretrain").mkdir()
    shutil.copy(pretrained, tmp_path / "pretrain")
    settings = [word for setting in SMALL for word in ("--set", setting)]
    settings += ["--set", "finetune.runs=[{labels: 0.2, steps: 2}, {labels: 1.0, steps: 3}]"]

    def run(*labels: object) -> str:
        flags = ("--stage", "finetune", "--shards", shards.shards, "--output", tmp_path, "--labels")
        return run_command("training.run", *flags, *labels, *settings).stderr

    run("25%", "60%", listed)
    runs = entries(tmp_path / "finetune")
    count = len(read_samples(shards, ("train",)).labelled())
    assert {name: (run["faces"], run["steps"]) for name, run in runs.items()} == {
        "pretrained-25%": (round(0.25 * count), 2),
        "pretrained-60%": (round(0.6 * count), 3),
        "pretrained-seed3-50%": (round(0.5 * count), 3),
    }
    assert "--labels half: neither a file nor a share" in run("half")
