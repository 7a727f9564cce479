"""Both stages on real shards of painted faces: learning, resuming, scoring, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from contract.config import Config, load
from contract.errors import UserError
from contract.layout import Layout
from training import checkpoint, pretrain
from training.evaluate import evaluate
from training.finetune import finetune

TINY = [
    "network.width=8",
    "network.stem=large",
    "network.input_size=32",
    "pretrain.steps=6",
    "pretrain.batch_size=4",
    "pretrain.log_every=1",
    "pretrain.batch_norm_batches=2",
    "pretrain.loader_workers=0",
    "finetune.runs=[{labels: 0.5, steps: 3}, {labels: 1.0, steps: 3}]",
    "finetune.batch_size=4",
    "finetune.batch_norm_batches=2",
    "finetune.loader_workers=0",
]


@pytest.fixture(scope="module")
def config() -> Config:
    return load(settings=TINY)


@pytest.fixture(scope="module")
def trained(config: Config, shards: Layout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs")
    pretrain.pretrain(config, shards, output / "pretrain")
    finetune(config, shards, output / "pretrain" / "pretrained.pt", output / "finetune")
    evaluate(config, shards, output / "finetune", output / "evaluate")
    return output


def weights(path: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = checkpoint.load(path)["network"]
    return found


class Killed(Exception):
    pass


def test_a_killed_pre_training_goes_on_to_the_same_weights_digit_for_digit(
    config: Config, shards: Layout, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    eager = load(settings=[*TINY, "pretrain.checkpoint_minutes=0.000001"])
    undisturbed = tmp_path / "undisturbed"
    pretrain.pretrain(eager, shards, undisturbed)
    killed = tmp_path / "killed"
    real = checkpoint.save

    def save_and_die(path: Path, state: dict[str, object]) -> None:
        real(path, state)
        raise Killed

    for done in (1, 2, 3):
        with monkeypatch.context() as patched, pytest.raises(Killed):
            patched.setattr(checkpoint, "save", save_and_die)
            pretrain.pretrain(eager, shards, killed)
        assert checkpoint.load(killed / "last.pt")["step"] == done
    pretrain.pretrain(eager, shards, killed)
    expected, found = weights(undisturbed / "pretrained.pt"), weights(killed / "pretrained.pt")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    plain = weights(trained / "pretrain" / "pretrained.pt")
    assert all(torch.equal(expected[name], plain[name]) for name in expected)


def test_a_checkpoint_of_another_configuration_is_not_continued(
    config: Config, shards: Layout, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint.save(tmp_path / "last.pt", {"step": 5, "stamp": {"shards": "other"}, "stage": {}})
    pretrain.pretrain(config, shards, tmp_path)
    assert "starting anew" in capsys.readouterr().out
    expected = weights(trained / "pretrain" / "pretrained.pt")
    assert all(
        torch.equal(value, expected[name]) for name, value in weights(tmp_path / "pretrained.pt").items()
    )


def test_pre_training_writes_metrics_and_curves_and_leaves_no_unfinished_checkpoint(trained: Path) -> None:
    metrics = json.loads((trained / "pretrain" / "metrics.json").read_text())
    assert metrics["steps"] == 6
    assert metrics["segmentation_loss"] > 0
    assert 0 <= metrics["waiting"] <= 1
    assert not (trained / "pretrain" / "last.pt").exists()
    curve = trained / "pretrain" / "dvclive" / "plots" / "metrics" / "pretrain" / "loss.tsv"
    assert len(curve.read_text().splitlines()) == 7


def test_pre_training_reads_no_sample_of_val_or_test(
    config: Config, shards: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []
    real = pretrain.read_faces
    monkeypatch.setattr(
        pretrain, "read_faces", lambda layout, splits: asked.append(splits) or real(layout, splits)
    )
    pretrain.pretrain(load(settings=[*TINY, "pretrain.steps=1"]), shards, tmp_path)
    assert asked == [("train", "unlabelled")]


def test_every_run_is_scored_beside_the_majority_class(trained: Path) -> None:
    means = json.loads((trained / "evaluate" / "metrics.json").read_text())
    runs = [f"{initial}-{percent}%" for percent in (50, 100) for initial in ("scratch", "pretrained")]
    assert list(means) == ["majority class", *runs]
    assert means["majority class"]["balanced_accuracy"] == 0.5
    assert means["scratch-50%"]["faces"] == means["pretrained-50%"]["faces"] < means["scratch-100%"]["faces"]
    details = json.loads((trained / "evaluate" / "attributes.json").read_text())
    assert len(details["pretrained-100%"]) == 40
    assert (trained / "evaluate" / "table.txt").read_text().splitlines()[1].startswith("majority class")


def test_every_prediction_is_kept(trained: Path, shards: Layout) -> None:
    found = pq.read_table(trained / "evaluate" / "predictions.parquet")
    samples = pq.read_table(shards.samples, columns=["key", "split"]).to_pylist()
    test = {row["key"] for row in samples if row["split"] == "test"}
    assert found.num_rows == 4 * len(test)
    assert set(found["key"].to_pylist()) == test
    chances = found["Male"].to_pylist()
    assert all(0 <= chance <= 1 for chance in chances)


def test_from_scratch_and_pretrained_start_differently_but_see_the_same_faces(trained: Path) -> None:
    runs = {run["name"]: run for run in json.loads((trained / "finetune" / "runs.json").read_text())}
    assert runs["scratch-50%"]["steps"] == runs["pretrained-50%"]["steps"] == 3
    assert runs["scratch-50%"]["faces"] == runs["pretrained-50%"]["faces"]
    states = [checkpoint.load(trained / "finetune" / name / "classifier.pt")["model"] for name in runs]
    assert not torch.equal(states[0]["network.stem.0.weight"], states[1]["network.stem.0.weight"])


def test_fine_tuning_the_same_twice_gives_the_same_weights(
    config: Config, shards: Layout, trained: Path, tmp_path: Path
) -> None:
    finetune(config, shards, trained / "pretrain" / "pretrained.pt", tmp_path)
    for name in ("scratch-50%", "pretrained-100%"):
        states = [
            checkpoint.load(folder / name / "classifier.pt") for folder in (tmp_path, trained / "finetune")
        ]
        assert all(
            torch.equal(states[0]["model"][key], states[1]["model"][key]) for key in states[0]["model"]
        )


def test_a_network_that_was_not_pre_trained_so_is_refused(
    shards: Layout, trained: Path, tmp_path: Path
) -> None:
    wider = load(settings=[*TINY, "network.width=16", "finetune.initial=[pretrained]"])
    with pytest.raises(UserError, match="width=8"):
        finetune(wider, shards, trained / "pretrain" / "pretrained.pt", tmp_path)


def test_without_pre_training_the_message_says_what_to_run(
    config: Config, shards: Layout, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="--stage pretrain"):
        finetune(config, shards, tmp_path / "pretrained.pt", tmp_path)
    with pytest.raises(UserError, match="--stage finetune"):
        evaluate(config, shards, tmp_path / "nothing", tmp_path)


def test_a_loss_that_explodes_stops_the_run_and_names_samples(shards: Layout, tmp_path: Path) -> None:
    wild = load(settings=[*TINY, "pretrain.optimizer.learning_rate=1.0e+30", "pretrain.precision=float32"])
    with pytest.raises(UserError, match=r"the loss is (nan|inf)"):
        pretrain.pretrain(wild, shards, tmp_path)


def test_training_imports_neither_the_pipeline_nor_a_parser() -> None:
    code = (
        "import sys, training.run, training.pretrain, training.finetune, training.evaluate, training.report\n"
        "foreign = ('pipeline', 'facexlib', 'dask', 'distributed')\n"
        "print([name for name in sys.modules if name.split('.')[0] in foreign])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_says_in_one_line_what_is_missing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "training.run", "--shards", str(tmp_path), "--output", str(tmp_path / "runs")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.strip().count("\n") == 0
    assert done.stderr.startswith("error: ")
    assert "pipeline.parse" in done.stderr
