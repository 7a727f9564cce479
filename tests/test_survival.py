"""Killed runs, deadly files, full disks and somebody else's cluster: real processes, real kills."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import dask
import pyarrow.parquet as pq
import pytest

from common.files import remove_partials, replacing
from common.weights import file_sha256
from pipeline.runner.shard_record import read_record
from synthetic import write_dataset
from tests.commands import ROOT, run_command

CORES = len(os.sched_getaffinity(0))
COUNT = 24
QUICK = ("parse.size=64", "parse.precision=float32", "ingest.shard_size=8")


def command(photos: Path, output: Path, *settings: str) -> list[str]:
    flags = [part for setting in (*QUICK, *settings) for part in ("--set", setting)]
    start = [sys.executable, "-m", "pipeline.parse"]
    return [*start, "--input", str(photos), "--output", str(output), *flags]


def run(photos: Path, output: Path, *settings: str, preload: Path | None = None) -> CompletedProcess[str]:
    """The command in this process; its workers, which are others, run the file `preload` first."""
    with dask.config.set({"distributed.worker.preload": [str(preload)] if preload else []}):
        return run_command("pipeline.parse", *command(photos, output, *settings)[3:], cwd=ROOT)


def start(photos: Path, output: Path, *settings: str, **options: Any) -> "subprocess.Popen[str]":
    """The command as a process with a session of its own."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        command(photos, output, *settings), cwd=ROOT, start_new_session=True, **quiet | options
    )


def check_finished(photos: Path, output: Path, expected: Path) -> None:
    """Check that the same command goes on to the bytes of another output."""
    done = run(photos, output)
    assert done.returncode == 0, done.stderr
    assert finished_bytes(output) == finished_bytes(expected)
    assert list(output.rglob("*.partial")) == []


def finished_bytes(output: Path) -> dict[str, str]:
    """Digests of all tars, their records and the manifests, by path."""
    files = [*output.rglob("*.tar"), *output.rglob("*-0*.json"), *output.rglob("*.parquet")]
    return {str(path.relative_to(output)): file_sha256(path) for path in sorted(files)}


def processes_of_session(session: int) -> list[int]:
    """Living processes of a session; zombies are dead."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(folder.name))
    return found


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("survival") / "photos"
    write_dataset(folder, count=COUNT, seed=11, workers=1)
    return folder


@pytest.fixture(scope="module")
def undisturbed(photos, tmp_path_factory):
    """The output of a run that nobody disturbs, and the seconds that it took."""
    output = tmp_path_factory.mktemp("undisturbed")
    start = time.monotonic()
    subprocess.run(command(photos, output), cwd=ROOT, check=True)
    seconds = time.monotonic() - start
    stages = json.loads((output / "manifests" / "stages.json").read_text())
    tars = len(list((output / "photos").glob("*.tar")))
    for stage in (stages["align"], stages["parse"]):
        assert (stage["images"], stage["made"], stage["kept"], stage["workers"]) == (COUNT, tars, 0, CORES)
        assert 0 < stage["seconds"] < seconds
    return output, seconds


def test_kills_of_everything_or_of_the_driver_at_random_moments_change_no_byte(photos, undisturbed, tmp_path):
    expected, seconds = undisturbed
    moments = random.Random(4)
    for only_driver in (False, True, False):
        driver = start(photos, tmp_path, stderr=subprocess.DEVNULL)
        time.sleep(seconds * moments.uniform(0.3, 0.9))
        for process in [driver.pid] if only_driver else processes_of_session(driver.pid):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        driver.wait()
        wait_until_ended(driver.pid)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tar") if read_record(path)}
    check_finished(photos, tmp_path, expected)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def wait_until_ended(session: int) -> None:
    """Wait until all processes of a session have ended."""
    end = time.monotonic() + 600
    while left := processes_of_session(session):
        assert time.monotonic() < end, left
        time.sleep(0.1)


def test_ctrl_c_is_one_sentence_and_the_same_command_goes_on(photos, undisturbed, tmp_path):
    # Dead slow, so that it is surely interrupted at work.
    # A shell starts what runs in its background with Ctrl-C ignored, these tests among it.
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    driver = start(photos, tmp_path, "parse.size=1024", **heard)
    wait_for_partial(tmp_path / "photos")
    os.killpg(driver.pid, signal.SIGINT)
    _, stderr = driver.communicate(timeout=600)
    assert driver.returncode == 130
    assert "Traceback" not in stderr, stderr
    wait_until_ended(driver.pid)
    check_finished(photos, tmp_path, undisturbed[0])


def wait_for_partial(folder: Path) -> Path:
    end = time.monotonic() + 600
    while time.monotonic() < end:
        for partial in folder.glob(".*.partial"):
            return partial
        time.sleep(0.05)
    raise AssertionError(f"nobody writes into {folder}")


def test_a_killed_worker_is_replaced_and_changes_no_byte(photos, undisturbed, tmp_path):
    driver = start(photos, tmp_path)
    wait_for_partial(tmp_path / "photos")
    workers = [pid for pid in processes_of_session(driver.pid) if is_worker(pid)]
    os.kill(workers[0], signal.SIGKILL)
    _, stderr = driver.communicate(timeout=600)
    assert driver.returncode == 0, stderr
    assert finished_bytes(tmp_path) == finished_bytes(undisturbed[0])


def is_worker(process: int) -> bool:
    """Whether a process was forked from the one that has imported what workers need."""
    parent = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return all(b"forkserver" in Path(f"/proc/{each}/cmdline").read_bytes() for each in (process, parent))


DEADLY_DECODERS = """
import os, sys
from hashlib import sha256
from pipeline.align import shard as align
from pipeline.parse import shard as parse

def deadly(owner, name, digest):
    def dies(data, *rest, real=getattr(owner, name)):
        if sha256(data).hexdigest() == digest:
            os.kill(os.getpid(), 9)
        return real(data, *rest)
    setattr(owner, name, dies)

if "forkserver" in " ".join(sys.orig_argv):
    deadly(align, "decode_photo", "{photo}")
    deadly(parse, "decode_face", "{face}")
"""
"""A Dask preload: stand-ins for decoders that crash the process on one input."""


def test_a_photo_and_a_face_that_kill_workers_are_quarantined_alone(photos, undisturbed, tmp_path):
    whole, output, preload = undisturbed[0], tmp_path / "out", tmp_path / "deadly_decoders.py"
    photo = pq.read_table(whole / "manifests" / "source.parquet").to_pylist()[5]
    samples = pq.read_table(whole / "manifests" / "shards.parquet").to_pylist()
    face = next(row for row in samples if row["shard"] != photo["shard"])
    data = (whole / face["shard"]).read_bytes()[face["jpg.offset"] :][: face["jpg.size"]]
    digest = hashlib.sha256(data).hexdigest()
    preload.write_text(DEADLY_DECODERS.format(photo=photo["sha256"], face=digest))
    done = run(photos, output, preload=preload)
    assert done.returncode == 0, done.stderr
    refused = pq.read_table(output / "manifests" / "quarantine.parquet").to_pylist()
    assert {(row["source"], row["reason"]) for row in refused} == {
        (victim["source"], "worker-died") for victim in (photo, face)
    }
    keys = pq.read_table(output / "manifests" / "shards.parquet")["key"].to_pylist()
    assert {row["key"] for row in samples} - set(keys) == {photo["key"], face["key"]}
    assert len(keys) == COUNT - 2
    damaged = {Path(victim["shard"]).name for victim in (photo, face)}
    finished, expected = finished_bytes(output), finished_bytes(whole)
    others = {name for name in expected if name.endswith(".tar") and Path(name).name not in damaged}
    assert others and all(finished[name] == expected[name] for name in others)


def test_a_bug_in_a_task_ends_the_run_and_names_the_shard(photos, undisturbed, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(undisturbed[0], output)
    tar = sorted((output / "photos").glob("*.tar"))[0]
    tar.with_suffix(".json").unlink()
    preload = tmp_path / "bug.py"
    preload.write_text("import pipeline.parse.shard as s\ns.encode_mask = None\n")
    with pytest.raises(RuntimeError, match=f"parse failed at {tar}: TypeError"):
        run(photos, output, preload=preload)
    assert read_record(tar) is None


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 600 KB; skipped where mounting is not allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_one_sentence_and_with_space_the_command_goes_on(photos, undisturbed, small_disk):
    expected = finished_bytes(undisturbed[0])
    full = run(photos, small_disk)
    assert full.returncode == 1
    # Not by lines: the thread that shows the progress may be writing one.
    assert full.stderr.count("error: ") == 1, full.stderr
    assert "the disk is full; make space" in full.stderr.partition("error: ")[2]
    assert "Traceback" not in full.stderr
    assert finished_bytes(small_disk).items() <= expected.items()
    assert list(small_disk.rglob("*.partial")) == []
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    check_finished(photos, small_disk, undisturbed[0])


def test_only_dead_processes_files_are_cleared(tmp_path):
    dead = tmp_path / ".train-000000.tar.1.partial"
    dead.write_text("half")
    with replacing(tmp_path / "alive.tar") as temporary:
        remove_partials(tmp_path)
        assert temporary.exists()
    assert not dead.exists()
    assert (tmp_path / "alive.tar").exists()


def test_a_run_stops_once_too_much_is_refused_and_says_how_much_of_what(photos, tmp_path):
    shutil.copytree(photos, root := tmp_path / "in")
    images = sorted((root / "img_align_celeba").iterdir())
    for image in images[:10]:
        image.write_bytes(b"no image " + image.name.encode())
    images[10].write_bytes(b"")
    done = run(root, tmp_path / "out", "quarantine.max_fraction=0.4")
    assert done.returncode == 1
    sentence = (f"of {COUNT} sources are refused", "not-an-image", "1 empty", "max_fraction=0.4")
    assert all(words in done.stderr for words in sentence)
