"""``--drop-aligned``: aligned faces are kept once, in the finished shards, and parsed again from there."""

import shutil
from pathlib import Path

import pytest

from common.config import load
from common.layout import Layout
from common.storage import Address
from pipeline.parse.run import drop_faces, plan, read_aligned, read_plan
from pipeline.runner.finished_shards import FinishedShard, finished_shards
from tests.commands import run_command

QUICK = ("parse.size=64", "parse.precision=float32", "ingest.shard_size=8")
FLAGS = [part for setting in QUICK for part in ("--set", setting)]


def run(*arguments: object) -> str:
    done = run_command("pipeline.parse", *FLAGS, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def bytes_of(folder: Path, pattern: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob(pattern))}


@pytest.fixture(scope="module")
def both(portraits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A set that keeps its aligned faces, and the same after they were dropped."""
    folder = tmp_path_factory.mktemp("dropped")
    run("--input", portraits, "--output", folder / "kept")
    shutil.copytree(folder / "kept", folder / "dropped")
    assert "parse: 4 of 4 aligned shards dropped" in run("--output", folder / "dropped", "--drop-aligned")
    return folder / "kept", folder / "dropped"


def test_dropped_faces_take_no_room_and_leave_the_finished_shards_as_they_are(
    both: tuple[Path, Path], portraits: Path
) -> None:
    kept, dropped = both
    assert {len(tar) for tar in bytes_of(dropped / "aligned", "*/*.tar").values()} == {0}
    assert min(map(len, bytes_of(kept / "aligned", "*/*.tar").values())) > 0
    assert bytes_of(dropped / "portraits", "*") == bytes_of(kept / "portraits", "*")
    again = run("--input", portraits, "--output", dropped, "--drop-aligned")
    assert "align: 24 faces, 0 refused; 4 of 4 shards were up to date" in again
    assert "4 of 4 shards were up to date\nparse: 0 of 4 aligned shards dropped" in again


def test_faces_that_were_dropped_are_parsed_again_to_the_same_bytes(
    both: tuple[Path, Path], tmp_path: Path
) -> None:
    made = {}
    for origin in both:
        run("--from", origin, "--output", tmp_path / origin.name, "--set", "parse.size=96")
        made[origin.name] = bytes_of(tmp_path / origin.name, "portraits/*")
    assert sum(name.endswith(".tar") for name in made["kept"]) == 4
    assert made["dropped"] == made["kept"]
    # In place, where the tar that is read is the one that is replaced.
    shutil.copytree(both[1], tmp_path / "own")
    run("--output", tmp_path / "own", "--set", "parse.size=96")
    assert bytes_of(tmp_path / "own", "portraits/*") == made["kept"]


def test_a_shard_is_not_dropped_before_all_its_faces_are_in_the_finished_one(
    both: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(both[0], tmp_path / "set")
    layout, config = Layout.at(tmp_path / "set"), load(settings=list(QUICK))
    planned = read_plan(layout)
    tasks = plan(planned, read_aligned(planned, layout), config, layout, layout.shards)
    finished = finished_shards(layout.shards / "portraits", layout, "parse")
    present = {task.tar: finished.get(task.tar) for task in tasks}
    stale, missing, refused = (task.tar for task in tasks[:3])
    changes = {stale: {"made_from": {"inputs": "other"}}, refused: {"quarantined": [{"source": "a.jpg"}]}}

    def get(tar: Address) -> FinishedShard | None:
        shard = present[tar]
        assert shard is not None
        return None if tar == missing else FinishedShard(**vars(shard) | changes.get(tar, {}))

    monkeypatch.setattr(finished, "get", get)
    assert drop_faces(tasks, finished) == 1
    assert [task.aligned.stat().st_size == 0 for task in tasks] == [False, False, False, True]


def test_what_cannot_be_parsed_again_ends_in_a_sentence(both: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(both[1], tmp_path / "set")
    min((tmp_path / "set" / "portraits").glob("*.tar")).unlink()
    lost = run_command("pipeline.parse", *FLAGS, "--output", tmp_path / "set")
    assert lost.returncode == 1
    assert "were dropped, and" in lost.stderr
    assert "run the command with --input to align them again" in lost.stderr
    other = run_command("pipeline.parse", "--from", both[0], "--output", tmp_path / "new", "--drop-aligned")
    assert other.returncode == 1
    assert "--drop-aligned would empty the tars of the set that --from names" in other.stderr
