"""Both stages on real shards of painted faces: learning, resuming, scoring, and what is refused."""

import fcntl
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray

from common.config import load
from common.errors import UserError
from common.layout import Layout
from tests.commands import run_command
from training.data.samples import Samples, read_samples
from training.engine.optim import LossCheck
from training.evaluate import evaluate as evaluation
from training.evaluate.evaluate import evaluate
from training.methods.runs import finetune
from training.models.classifier import Classifier, load_classifier
from training.pretrain import train as pretrain
from training.run import main

TINY = [
    *("network.width=8", "network.stem=large", "network.input_size=32", "trainer.loader_workers=0"),
    *("pretrain.steps=6", "pretrain.batch_size=4", "pretrain.log_every=1", "pretrain.validate_every=3"),
    *("finetune.runs=[{labels: 0.5, steps: 3}, {labels: 1.0, steps: 3}]", "finetune.batch_size=4"),
    *("finetune.methods=[scratch, pretrained]", "evaluate.resamples=20"),
]
TRAIN_VALUES = {
    *("loss", "segmentation/loss", "segmentation/pixel_accuracy", "classification/loss"),
    *("classification/accuracy", "rotation/position_loss", "rotation/angle_loss", "adversarial/loss"),
    *("rotation/position_accuracy", "rotation/angle_accuracy"),
}


@pytest.fixture(scope="module")
def config():
    return load(settings=TINY)


def weights(run: Path) -> dict[str, torch.Tensor]:
    network = load_classifier(run / "classifier.pt").network
    return network.state_dict()


@pytest.fixture(scope="module")
def trained(config, shards, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs")
    pretrain.pretrain(config, shards, output / "pretrain")
    finetune(config, shards, output / "pretrain" / "pretrained.safetensors", output / "finetune")
    evaluate(config, shards, output / "finetune", output / "evaluate")
    return output


def test_pre_training_writes_metrics_and_curves_and_leaves_no_unfinished_checkpoint(trained):
    metrics = json.loads((trained / "pretrain" / "metrics.json").read_text())
    assert metrics["steps"] == 6
    assert metrics["train"]["segmentation/loss"] > 0
    assert set(metrics["train"]) == TRAIN_VALUES
    assert [task["abbreviation"] for task in metrics["tasks"]] == ["PST", "PCT", "PRT", "adversarial"]
    for task in metrics["tasks"]:
        for metric in task["metrics"]:
            assert f"{task['name']}/{metric['name']}" in metrics["val"]
    assert 0 <= metrics["waiting"] <= 1
    assert not (trained / "pretrain" / "checkpoints").exists()
    curve = trained / "pretrain" / "dvclive" / "plots" / "metrics" / "pretrain" / "loss.tsv"
    assert len(curve.read_text().splitlines()) == 7
    speed = trained / "pretrain" / "dvclive" / "plots" / "metrics" / "speed"
    assert {file.stem for file in speed.iterdir()} == {"samples_per_second", "waiting", "minutes_left"}


def test_pre_training_learns_from_no_sample_of_val_or_test(shards, tmp_path, monkeypatch):
    learnt: list[str] = []
    monkeypatch.setattr(
        LossCheck,
        "add",
        lambda losses, loss, step, indices: learnt.extend(losses.keys[i] for i in indices.tolist()),
    )
    pretrain.pretrain(load(settings=TINY), shards, tmp_path)
    rows = pq.read_table(shards.samples, columns=["key", "split"]).to_pylist()
    split = {row["key"]: row["split"] for row in rows}
    assert {split[key] for key in learnt} == {"train"}
    assert len(learnt) == 6 * 4


def test_every_run_is_scored_beside_the_majority_class(trained):
    means = json.loads((trained / "evaluate" / "metrics.json").read_text())
    runs = [f"{initial}-{percent}%" for percent in (50, 100) for initial in ("scratch", "pretrained")]
    assert list(means) == ["majority class", *runs]
    assert means["majority class"]["balanced_accuracy"] == 0.5
    assert means["scratch-50%"]["faces"] == means["pretrained-50%"]["faces"] < means["scratch-100%"]["faces"]
    details = json.loads((trained / "evaluate" / "attributes.json").read_text())
    assert len(details["pretrained-100%"]) == 40
    assert (trained / "evaluate" / "table.txt").read_text().splitlines()[2].startswith("majority class")


def test_every_prediction_is_kept(trained, shards):
    found = pq.read_table(trained / "evaluate" / "predictions.parquet")
    samples = pq.read_table(shards.samples, columns=["key", "split"]).to_pylist()
    test = {row["key"] for row in samples if row["split"] == "test"}
    assert found.num_rows == 4 * len(test)
    assert set(found["key"].to_pylist()) == test
    chances = found["Male"].to_pylist()
    assert all(0 <= chance <= 1 for chance in chances)
    truth = {row["key"]: row["Male"] for row in pq.read_table(shards.samples).to_pylist()}
    assert found["Male.label"].to_pylist() == [truth[key] for key in found["key"].to_pylist()]


def test_thresholds_come_from_val_and_labels_of_test_move_none(
    config, shards, trained, tmp_path, monkeypatch
):
    real = read_samples

    def cuts(turned: str) -> list[float]:
        def read(layout: Layout, splits: Sequence[str]) -> Samples:
            faces = real(layout, splits)
            return replace(faces, attributes=1 - faces.attributes) if list(splits) == [turned] else faces

        monkeypatch.setattr(evaluation, "read_samples", read)
        evaluate(config, shards, trained / "finetune", tmp_path / turned)
        found = json.loads((tmp_path / turned / "attributes.json").read_text())["pretrained-100%"]
        return [scores["threshold"] for scores in found.values()]

    kept = json.loads((trained / "evaluate" / "attributes.json").read_text())["pretrained-100%"]
    assert cuts("test") == [scores["threshold"] for scores in kept.values()]
    assert cuts("val") != cuts("test")


def test_test_faces_are_read_once_per_run(config, shards, trained, tmp_path, monkeypatch):
    seen: list[str] = []
    real = evaluation.sample_probabilities

    def watched(classifier: Classifier, samples: Samples, *arguments: Any) -> NDArray[np.float64]:
        seen.append(samples.keys[0])
        return real(classifier, samples, *arguments)

    monkeypatch.setattr(evaluation, "sample_probabilities", watched)
    evaluate(config, shards, trained / "finetune", tmp_path)
    rows = pq.read_table(shards.samples, columns=["key", "split"]).to_pylist()
    split = {row["key"]: row["split"] for row in rows}
    assert [split[key] for key in seen] == ["val", "test"] * 4


def test_evaluating_twice_gives_the_same_bytes(config, shards, trained, tmp_path):
    evaluate(config, shards, trained / "finetune", tmp_path)
    files = {file.relative_to(tmp_path) for file in tmp_path.rglob("*") if file.is_file()}
    assert {str(file) for file in files} >= {"metrics.json", "intervals.json", "table.txt"}
    for file in files:
        assert (tmp_path / file).read_bytes() == (trained / "evaluate" / file).read_bytes(), file


def test_fine_tuning_the_same_twice_gives_the_same_weights(config, shards, trained, tmp_path):
    finetune(config, shards, trained / "pretrain" / "pretrained.safetensors", tmp_path)
    for name in ("scratch-50%", "pretrained-100%"):
        states = [weights(folder / name) for folder in (tmp_path, trained / "finetune")]
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_without_pre_training_the_message_says_what_to_run(config, shards, tmp_path):
    with pytest.raises(UserError, match="--stage pretrain"):
        finetune(config, shards, tmp_path / "pretrained.safetensors", tmp_path)
    with pytest.raises(UserError, match="--stage finetune"):
        evaluate(config, shards, tmp_path / "nothing", tmp_path)


def test_a_loss_that_explodes_between_two_log_lines_stops_the_run_and_leaves_no_checkpoint(shards, tmp_path):
    more = ["pretrain.learning_rate=1.0e+30", "trainer.precision=float32", "pretrain.log_every=6"]
    wild = load(settings=[*TINY, *more, "pretrain.validate_every=null"])
    with pytest.raises(UserError, match=r"the loss is (nan|inf) at step [1-4]"):
        pretrain.pretrain(wild, shards, tmp_path)
    assert not list(tmp_path.glob("checkpoints/*.pt"))


def test_the_command_says_in_one_line_what_is_missing(tmp_path):
    done = run_command("training.run", "--shards", tmp_path, "--output", tmp_path / "runs")
    assert done.returncode == 1
    assert done.stderr.strip().count("\n") == 0
    assert done.stderr.startswith("error: ")
    assert "pipeline.parse" in done.stderr


def test_a_second_training_into_one_output_is_refused_until_the_first_ends(shards, tmp_path, monkeypatch):
    arguments = ["run", "--stage", "evaluate", "--shards", str(shards.shards), "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=f"another training writes to {tmp_path}"):
            main()
    with pytest.raises(UserError, match="--stage finetune"):
        main()


def test_two_runs_of_one_name_are_refused(shards, tmp_path):
    runs = "finetune.runs=[{labels: a/few.txt, steps: 1}, {labels: b/few.txt, steps: 1}]"
    for settings in ([runs], ["finetune.methods=[scratch, scratch]"]):
        with pytest.raises(UserError, match=f"two runs would write {tmp_path}/scratch-"):
            finetune(load(settings=[*TINY, *settings]), shards, tmp_path, tmp_path)


def test_a_leftover_of_torchrun_is_named(shards, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="WORLD_SIZE=2 but no RANK, MASTER_ADDR, .*`unset WORLD_SIZE`"):
        pretrain.pretrain(load(settings=TINY), shards, tmp_path)


def test_an_output_at_an_address_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run", "--output", "s3://bucket/runs"])
    with pytest.raises(UserError, match="training writes to a local folder"):
        main()
