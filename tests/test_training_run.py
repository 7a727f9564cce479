"""Both stages on real shards of painted faces: learning, resuming, scoring, and what is refused."""

import fcntl
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from common.config import load
from common.errors import UserError
from common.layout import Layout
from tests.commands import run_command
from training.data.samples import Samples, read_samples
from training.evaluate import evaluate as evaluation
from training.evaluate.evaluate import evaluate
from training.methods.runs import finetune
from training.models.classifier import Classifier
from training.pretrain import train as pretrain

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


def test_every_run_is_scored_beside_the_majority_class(trained):
    means = json.loads((trained / "evaluate" / "metrics.json").read_text())
    runs = [f"{initial}-{percent}%" for percent in (50, 100) for initial in ("scratch", "pretrained")]
    assert list(means) == ["majority class", *runs]
    assert means["majority class"]["balanced_accuracy"] == 0.5
    assert means["scratch-50%"]["faces"] == means["pretrained-50%"]["faces"] < means["scratch-100%"]["faces"]
    details = json.loads((trained / "evaluate" / "attributes.json").read_text())
    assert len(details["pretrained-100%"]) == 40
    assert (trained / "evaluate" / "table.txt").read_text().splitlines()[2].startswith("majority class")


def test_thresholds_come_from_val_and_labels_of_test_move_none(
    config, shards, trained, tmp_path, monkeypatch
):
    def cuts(turned: str) -> list[float]:
        def read(layout: Layout, splits: Sequence[str]) -> Samples:
            faces = read_samples(layout, splits)
            return replace(faces, attributes=1 - faces.attributes) if list(splits) == [turned] else faces

        monkeypatch.setattr(evaluation, "read_samples", read)
        evaluate(config, shards, trained / "finetune", tmp_path)
        return thresholds(tmp_path)

    def thresholds(folder: Path) -> list[float]:
        found = json.loads((folder / "attributes.json").read_text())["pretrained-100%"]
        return [scores["threshold"] for scores in found.values()]

    kept = thresholds(trained / "evaluate")
    assert cuts("test") == kept != cuts("val")


def test_evaluating_again_reads_test_once_per_run_and_gives_the_same_bytes(
    config, shards, trained, tmp_path, monkeypatch
):
    seen: list[str] = []
    real = evaluation.sample_probabilities

    def watched(classifier: Classifier, samples: Samples, *arguments: Any) -> NDArray[np.float64]:
        seen.append(samples.keys[0])
        return real(classifier, samples, *arguments)

    monkeypatch.setattr(evaluation, "sample_probabilities", watched)
    evaluate(config, shards, trained / "finetune", tmp_path)
    rows = pq.read_table(shards.samples).to_pylist()
    split = {row["key"]: row["split"] for row in rows}
    assert [split[key] for key in seen] == ["val", "test"] * 4
    files = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert files.keys() >= {"metrics.json", "intervals.json", "table.txt"}
    assert files == {file.name: file.read_bytes() for file in (trained / "evaluate").iterdir()}
    found = pq.read_table(tmp_path / "predictions.parquet")
    truth = {row["key"]: row["Male"] for row in rows if row["split"] == "test"}
    assert set(found["key"].to_pylist()) == truth.keys() and found.num_rows == 4 * len(truth)
    assert found["Male.label"].to_pylist() == [truth[key] for key in found["key"].to_pylist()]


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


def test_a_second_training_into_one_output_is_refused_until_the_first_ends(shards, tmp_path):
    def run(output: object) -> str:
        flags = ("--stage", "evaluate", "--shards", shards.shards, "--output", output)
        return run_command("training.run", *flags).stderr

    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert f"error: another training writes to {tmp_path}" in run(tmp_path)
    assert "--stage finetune" in run(tmp_path)
    assert "training writes to a local folder" in run("s3://bucket/runs")


def test_two_runs_of_one_name_and_a_leftover_of_torchrun_are_refused(shards, tmp_path, monkeypatch):
    runs = "finetune.runs=[{labels: a/few.txt, steps: 1}, {labels: b/few.txt, steps: 1}]"
    for settings in ([runs], ["finetune.methods=[scratch, scratch]"]):
        with pytest.raises(UserError, match=f"two runs would write {tmp_path}/scratch-"):
            finetune(load(settings=[*TINY, *settings]), shards, tmp_path, tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="WORLD_SIZE=2 but no RANK, MASTER_ADDR, .*`unset WORLD_SIZE`"):
        pretrain.pretrain(load(settings=TINY), shards, tmp_path)
