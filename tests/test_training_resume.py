"""Stopping and going on, in training by checkpoints and in predictions by rows."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from common.alignment.recipe import Recipe
from common.config import load
from common.errors import UserError
from common.layout import Layout
from common.photo import Refused
from synthetic.dataset import paint_portrait
from tests.commands import run_command
from training.data.loader import TrainingData
from training.data.samples import read_samples
from training.engine import checkpoint
from training.engine.optim import LossCheck
from training.models.attribute_network import AttributeNetwork
from training.models.classifier import NetworkClassifier, save_classifier
from training.models.pretrained import read_pretrained
from training.predict.predictor import Face, Predictor
from training.pretrain.train import pretrain

TINY = [
    *("network.width=8", "network.stem=large", "network.input_size=32", "pretrain.steps=8"),
    *("pretrain.batch_size=4", "pretrain.log_every=1", "trainer.loader_workers=1"),
    *("pretrain.validate_every=3",),
]
EAGER = [*TINY, "trainer.checkpoint_minutes=0.000001"]


def curves(output: Path) -> dict[str, str]:
    folder = output / "dvclive" / "plots" / "metrics"
    return {
        str(file.relative_to(folder)): file.read_text()
        for file in sorted(folder.rglob("*.tsv"))
        if file.parent.name != "speed"
    }


def command(shards: Layout, output: Path) -> list[str]:
    settings = [word for setting in TINY for word in ("--set", setting)]
    start = [sys.executable, "-m", "training.run", "--stage", "pretrain", *settings]
    return [*start, "--shards", str(shards.shards), "--output", str(output)]


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory):
    """A run that nobody disturbed."""
    output = tmp_path_factory.mktemp("whole")
    pretrain(load(settings=TINY), shards, output)
    return output


def test_a_stopped_run_goes_on_to_the_same_losses_and_weights_digit_for_digit(shards, whole, tmp_path):
    output = tmp_path / "pretrain"
    run = subprocess.Popen(command(shards, tmp_path), stderr=subprocess.PIPE, text=True)
    logged = output / "dvclive" / "plots" / "metrics" / "pretrain" / "loss.tsv"
    wanted = random.randint(2, 5)
    while run.poll() is None and not (logged.is_file() and len(logged.read_text().splitlines()) >= wanted):
        time.sleep(0.005)
    run.send_signal(signal.SIGTERM)
    stderr = run.communicate(timeout=600)[1]
    assert (run.returncode, "stopped by SIGTERM after step" in stderr) == (143, True), stderr
    assert "Traceback" not in stderr
    assert len(list((output / "checkpoints").iterdir())) == 1
    done = run_command("training.run", *command(shards, tmp_path)[3:])
    assert done.returncode == 0, done.stderr
    assert "resuming at step" in done.stdout
    assert curves(output) == curves(whole)
    expected, found = (read_pretrained(each / "pretrained.safetensors") for each in (whole, output))
    assert (found["config"]["network"]["width"], found["classes"][17]) == (8, "hair")
    assert expected["network"].keys() == found["network"].keys()
    assert all(torch.equal(value, found["network"][name]) for name, value in expected["network"].items())
    assert not (output / "checkpoints").exists()


class Killed(Exception): ...


def killed_after(
    step: int, shards: Layout, output: Path, monkeypatch: pytest.MonkeyPatch, *more: str
) -> None:
    """A run that died without warning once the checkpoint of `step` was written."""
    real = checkpoint.save

    def save_and_die(path: Path, state: dict[str, object]) -> None:
        real(path, state)
        if state["step"] == step:
            raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(checkpoint, "save", save_and_die)
        pretrain(load(settings=[*EAGER, *more]), shards, output)


def test_every_face_is_learnt_from_once_per_epoch_whatever_kills_the_run(shards, tmp_path, monkeypatch):
    count = len(read_samples(shards, ("train", "unlabelled")))
    learnt: Counter[str] = Counter()
    monkeypatch.setattr(
        LossCheck,
        "add",
        lambda losses, loss, step, indices: learnt.update(losses.keys[i] for i in indices.tolist()),
    )
    more = [f"pretrain.steps={count}", "pretrain.accumulate=2", "trainer.shuffle_shards=1"]
    for step in (1, count // 2):
        killed_after(step, shards, tmp_path, monkeypatch, *more)
    pretrain(load(settings=[*EAGER, *more]), shards, tmp_path)
    assert len(learnt) == count
    assert set(learnt.values()) == {4}  # so many epochs are `count` batches of four


def test_clipping_bounds_the_step_and_null_leaves_it_alone(shards, whole, tmp_path):
    for norm, same in (("1.0e+9", True), ("1.0e-9", False)):
        pretrain(load(settings=[*TINY, f"pretrain.clip_norm={norm}"]), shards, tmp_path / norm)
        assert (curves(tmp_path / norm) == curves(whole)) == same


def test_of_the_latest_checkpoints_a_cut_one_is_passed_over_for_the_one_before(
    shards, whole, tmp_path, monkeypatch, capsys
):
    killed_after(4, shards, tmp_path, monkeypatch)
    *_, kept, cut = sorted(found := list((tmp_path / "checkpoints").iterdir()))
    assert (kept.name, cut.name) == ("step-000000003.pt", "step-000000004.pt")
    assert len(found) == 3  # it died before the oldest was deleted
    cut.write_bytes(cut.read_bytes()[:-1000])
    pretrain(load(settings=TINY), shards, tmp_path)
    printed = capsys.readouterr().out
    assert f"skipped {cut}: not a readable checkpoint" in printed
    assert "resuming at step 3" in printed
    assert curves(tmp_path) == curves(whole)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "pointer of Git LFS"),
        (b"\n<!DOCTYPE html><html>", "a web page instead"),
        (b"", "it is empty"),
        (torch.nn.Linear(1, 1), "a pickled object instead of its state_dict"),
        ([torch.zeros(1)], "not a checkpoint but a list"),
    ],
    ids=["LFS", "HTML", "empty", "module", "list"],
)
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, content, message):
    path = tmp_path / "classifier.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(UserError, match=message):
        checkpoint.load(path)


def test_an_error_in_the_middle_of_a_run_saves_a_checkpoint_first(shards, whole, tmp_path, monkeypatch):
    real = TrainingData.batches

    def failing(*arguments: Any) -> Iterator[Any]:
        for number, batch in enumerate(real(*arguments)):
            if number == 5:
                raise UserError("the store has been away for ten minutes")
            yield batch

    with monkeypatch.context() as patched, pytest.raises(UserError, match="away for ten minutes"):
        patched.setattr(TrainingData, "batches", failing)
        pretrain(load(settings=TINY), shards, tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000005.pt"]
    pretrain(load(settings=TINY), shards, tmp_path)
    assert curves(tmp_path) == curves(whole)


def test_a_checkpoint_of_other_settings_is_kept_or_continued_on_request_if_its_weights_fit(
    shards, tmp_path, monkeypatch, capsys
):
    killed_after(1, shards, tmp_path, monkeypatch)
    shutil.copytree(tmp_path, tmp_path / "anyway")
    with pytest.raises(UserError, match=r"do not fit .* \(network.width: 8 -> 16"):
        pretrain(load(settings=[*TINY, "network.width=16"]), shards, tmp_path, "anyway")
    other = load(settings=[*TINY, "pretrain.learning_rate=0.002", "pretrain.log_every=2"])
    pretrain(other, shards, tmp_path / "anyway", "anyway")
    assert "resuming at step 1 in spite of pretrain.learning_rate" in capsys.readouterr().out
    pretrain(other, shards, tmp_path)
    output = capsys.readouterr().out
    assert "starting anew" in output
    assert "pretrain.learning_rate: 0.001 -> 0.002" in output
    assert "log_every" not in output
    assert f"kept in {tmp_path / 'checkpoints-1'}" in output
    assert [path.name for path in (tmp_path / "checkpoints-1").iterdir()] == ["step-000000001.pt"]
    assert json.loads((tmp_path / "metrics.json").read_text())


def test_a_run_that_is_told_never_to_resume_starts_anew(shards, whole, tmp_path, monkeypatch):
    killed_after(2, shards, tmp_path, monkeypatch)
    pretrain(load(settings=TINY), shards, tmp_path, "never")
    assert curves(tmp_path) == curves(whole)


def classifier() -> NetworkClassifier:
    """One with random weights, of faces that were aligned already."""
    config, names = load(settings=["network.width=8", "network.input_size=32"]), ("Male", "Smiling")
    recipe = Recipe.of(config.align, config.ingest, detects=False).model_dump(mode="json")
    model = AttributeNetwork(config.network, names)
    return NetworkClassifier(attributes=names, metadata={"alignment": recipe}, model=model)


def test_an_interrupted_prediction_continues(tmp_path, monkeypatch):
    seen, real = list[int](), Predictor.predict_each

    def counted(predictor: Predictor, images: list[np.ndarray]) -> list[list[Face] | Refused]:
        seen.append(1)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return real(predictor, images)

    monkeypatch.setattr(Predictor, "predict_each", counted)
    monkeypatch.setattr("training.predict.predict.GROUP", 1)
    made = tmp_path / "made"
    photos = [made / f"{number}.png" for number in range(4)]
    save_classifier(made / "classifier.pt", classifier())
    for number, photo in enumerate(photos):
        Image.fromarray(paint_portrait(number, number + 1, 5).image).save(photo)
    folder = tmp_path / "out"
    folder.mkdir()
    arguments = ("--checkpoint", made / "classifier.pt", "--align", "none", *photos, "--output")
    done = run_command("training.predict", *arguments, "faces.csv", cwd=folder)
    assert (done.returncode, [file.name for file in folder.iterdir()]) == (130, [".faces.csv.rows"])
    assert "the same command continues" in done.stderr
    with (folder / ".faces.csv.rows").open("a") as rows:
        rows.write('["a line that was cut off')
    assert run_command("training.predict", *arguments, "faces.csv", cwd=folder).returncode == 0
    assert len(seen) == 3 + 2
    assert run_command("training.predict", *arguments, "whole.csv", cwd=folder).returncode == 0
    assert (folder / "faces.csv").read_bytes() == (folder / "whole.csv").read_bytes()
    assert sorted(file.name for file in folder.iterdir()) == ["faces.csv", "whole.csv"]
    seen[:] = [1, 1]
    done = run_command("training.predict", *arguments[:-1], cwd=folder)
    assert (done.returncode, "nothing is kept without --output" in done.stderr) == (130, True)


@pytest.mark.parametrize("content", [[], torch.zeros(3), {"kind": []}, {"kind": "network", "state": 1}])
def test_what_is_no_classifier_or_no_network_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "classifier.pt")
    with pytest.raises(UserError, match=r"classifier\.pt: not a c"):
        Predictor.load(tmp_path / "classifier.pt")
    with pytest.raises(UserError, match="train again"):
        read_pretrained(tmp_path / "classifier.pt")
