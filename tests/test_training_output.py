"""Results at an address: a real S3 server on the loopback holds checkpoints, logs and networks."""

import shutil
import sys
import time
from pathlib import Path

import pytest
import torch
from upath import UPath

from common.config import Config, load
from common.layout import Layout
from common.storage import Address, TransientError
from training.engine import checkpoint
from training.engine.distributed import Ranks
from training.engine.output import local_output
from training.models.pretrained import FILE, read_pretrained
from training.pretrain.train import pretrain
from training.run import main

SETTINGS = [
    "network.width=8",
    "network.input_size=32",
    "pretrain.steps=4",
    "pretrain.batch_size=4",
    "pretrain.log_every=1",
    "pretrain.batch_norm_batches=2",
    "pretrain.validate_every=null",
    "pretrain.picture_every=null",
    "pretrain.checkpoint_minutes=0.000001",
]
ALONE = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def bucket(object_store: None) -> Address:
    root = UPath("s3://results", use_listings_cache=False)
    root.fs.mkdir("results")
    return root


def config_with(cache: Path) -> Config:
    return load(settings=[*SETTINGS, f"stream.cache={cache}", "stream.retry_minutes=0"])


def wait_for(path: Address) -> bytes:
    for _ in range(200):
        if path.exists():
            return path.read_bytes()
        time.sleep(0.05)
    raise AssertionError(f"{path} was never uploaded")


def test_a_run_that_fails_goes_on_from_the_address_on_another_machine_to_the_same_weights(
    bucket: Address, shards: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = bucket / "run"
    arguments = ["run", "--stage", "pretrain", "--shards", str(shards.shards), "--output", str(output)]
    for setting in (*SETTINGS, f"stream.cache={tmp_path / 'cache'}"):
        arguments += ["--set", setting]
    monkeypatch.setattr(sys, "argv", arguments)
    real = checkpoint.save

    def save_and_fail(path: Path, state: dict[str, object]) -> None:
        real(path, state)
        if state["step"] == 2:
            raise RuntimeError("the machine is taken away")

    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr(checkpoint, "save", save_and_fail)
        main()
    folder = output / "pretrain"
    assert [path.name for path in (folder / "checkpoints").iterdir()][-1:] == ["step-000000002.pt"]
    shutil.rmtree(tmp_path / "cache")  # another machine has no copy
    main()
    assert not list(folder.glob("checkpoints/*.pt"))
    assert len((folder / "dvclive/plots/metrics/pretrain/loss.tsv").read_text().splitlines()) == 5
    pretrain(config_with(tmp_path / "other"), shards, tmp_path / "whole")
    (tmp_path / FILE).write_bytes((folder / FILE).read_bytes())
    resumed, whole = (read_pretrained(f)["network"] for f in (tmp_path / FILE, tmp_path / "whole" / FILE))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_what_is_written_is_uploaded_while_the_run_goes_on_and_what_is_deleted_goes_too(
    bucket: Address, tmp_path: Path
) -> None:
    root, stream = bucket / "live", config_with(tmp_path).stream
    (root / "other" / "photo.jpg").write_bytes(b"not ours")
    with local_output(root, ["pretrain"], stream, ALONE, seconds=0.05) as folder:
        assert not (folder / "other").exists()
        (folder / "pretrain").mkdir()
        (folder / "pretrain" / "log.tsv").write_text("1")
        assert wait_for(root / "pretrain" / "log.tsv") == b"1"
        (folder / "pretrain" / "log.tsv").unlink()
        (folder / "pretrain" / "run.json").write_text("{}")
    assert [path.name for path in (root / "pretrain").iterdir()] == ["run.json"]
    assert (root / "other" / "photo.jpg").read_bytes() == b"not ours"


def test_an_outage_during_the_run_is_survived_and_one_that_outlasts_it_is_an_error(
    bucket: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, stream = bucket / "outage", config_with(tmp_path).stream
    real, down = root.fs.put_file, [True]

    def put_file(*arguments: str) -> None:
        if down[0]:
            raise PermissionError("ExpiredToken")
        real(*arguments)

    monkeypatch.setattr(root.fs, "put_file", put_file)
    with local_output(root, ["pretrain"], stream, ALONE, seconds=0.05) as folder:
        (folder / "checkpoint").write_text("1")
        time.sleep(0.3)
        down[0] = False
        assert wait_for(root / "checkpoint") == b"1"
    assert "ExpiredToken; trying again in" in capsys.readouterr().err
    with (
        pytest.raises(TransientError, match="ExpiredToken"),
        local_output(root, ["pretrain"], stream, ALONE) as folder,
    ):
        down[0] = True
        (folder / "checkpoint").write_text("22")


def test_a_local_folder_is_used_as_it_is(tmp_path: Path) -> None:
    with local_output(tmp_path, ["pretrain"], config_with(tmp_path).stream, ALONE) as folder:
        assert folder == tmp_path
