"""Which finished shards are made again: those of other inputs, and those of other code unless accepted."""

from pathlib import Path

import pytest

from common.code import imported_modules
from pipeline.runner.quarantine import Refusals
from pipeline.runner.shard_record import ShardRecord, read_record, record_path, write_record
from pipeline.runner.shard_runner import stale_tasks
from pipeline.runner.shard_task import ShardTask


def shard(folder: Path, fingerprint: str, code: str) -> Path:
    tar = folder / "train-000000.tar"
    tar.write_bytes(b"tar")
    write_record(tar, ShardRecord(fingerprint, [], [], code))
    return tar


@pytest.mark.parametrize(
    ("fingerprint", "code", "any_code", "stale"),
    [
        ("inputs", "code", False, False),
        ("inputs", "older", False, True),
        ("inputs", "older", True, False),
        ("inputs", "", True, False),
        ("others", "code", False, True),
        ("others", "code", True, True),
    ],
)
def test_other_inputs_are_always_stale_and_other_code_unless_it_is_accepted(
    fingerprint: str,
    code: str,
    any_code: bool,
    stale: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    task = ShardTask(shard(tmp_path, fingerprint, code), "inputs", "code", 1)
    assert stale_tasks("parse", [task], Refusals(1, 1.0), any_code) == ([task] if stale else [])
    notice = capsys.readouterr().out
    if fingerprint == "inputs" and code != "code":
        verdict = "kept" if any_code else "made again; --any-code keeps them"
        assert notice == f"parse: 1 shards that other code made are {verdict}\n"
    else:
        assert not notice


def test_a_record_of_a_version_that_kept_no_code_can_be_read(tmp_path: Path) -> None:
    tar = tmp_path / "train-000000.tar"
    tar.write_bytes(b"tar")
    record_path(tar).write_text('{"fingerprint": "f", "samples": [], "quarantined": []}')
    assert read_record(tar) == ShardRecord("f", [], [], "")


@pytest.mark.parametrize("module", ["pipeline.align.shard", "pipeline.parse.shard"])
def test_the_bytes_of_a_shard_depend_on_no_setting_of_the_trainer_and_not_on_the_runner(module: str) -> None:
    names = {path.as_posix() for path in imported_modules(module)}
    assert "common/shards.py" in names
    assert not names & {"common/config.py", "common/weights.py", "pipeline/runner/shard_runner.py"}
    # The int8 parser is calibrated on painted portraits, so the bytes of its masks depend on them.
    foreign = ("training/",) if module == "pipeline.parse.shard" else ("training/", "synthetic/")
    assert not any(name.startswith(foreign) for name in names)
