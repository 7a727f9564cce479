"""On a full disk every writer ends in one sentence with the path, and leaves no part of a file."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from unittest.mock import MagicMock, patch

import numpy as np
import pyarrow as pa
import pytest
import torch

from common.config import load
from common.errors import UserError
from common.files import write_text
from common.layout import Layout
from training.data.samples import read_samples
from training.engine import checkpoint
from training.engine.logger import Log
from training.models import build
from training.models.pretrained import save_pretrained
from training.predict.output import write_table

SMALL = load(settings=["network.width=8", "network.input_size=32"])
TABLE = pa.table({"face": np.arange(9), "present": [["Male"]] * 9})
WRITERS: dict[str, Callable[[Path], None]] = {
    "a.json": lambda path: write_text(path, "text"),
    "a.pt": lambda path: checkpoint.save(path, {"weights": torch.zeros(1000)}),
    "a.safetensors": lambda path: save_pretrained(path, build(SMALL.network), SMALL),
    "table.csv": lambda path: write_table(path, TABLE),
    "table.json": lambda path: write_table(path, TABLE),
    "table.parquet": lambda path: write_table(path, TABLE),
}


@pytest.mark.parametrize("name", WRITERS)
def test_writers_name_the_file_and_leave_the_old_one(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("old")
    (tmp_path / f".{name}.{os.getpid()}.partial").symlink_to("/dev/full")
    with pytest.raises(UserError, match=f"{tmp_path / name}: the disk is full"):
        WRITERS[name](tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "old"


def test_an_index_without_room_in_the_temporary_folder_is_made_again_later(
    shards: Layout, tmp_path: Path
) -> None:
    known = read_samples(shards, ("train",), tmp_path)
    (file,) = tmp_path.glob("index-*.arrow")
    file.unlink()
    (tmp_path / f".{file.name}.{os.getpid()}.partial").symlink_to("/dev/full")
    with pytest.raises(UserError, match=f"{file}: the disk is full"):
        read_samples(shards, ("train",), tmp_path)
    assert not list(tmp_path.glob("*.arrow")) and not list(tmp_path.glob(".*.partial"))
    assert list(read_samples(shards, ("train",), tmp_path).keys) == list(known.keys)


def test_a_log_that_a_full_disk_cut_off_continues(tmp_path: Path) -> None:
    values = {"loss": 1.0, "accuracy": 0.5}
    with Log(tmp_path, 0) as log:
        log.values(1, "train", values)
    folder = tmp_path / "dvclive"
    curves = folder / "plots" / "metrics" / "train"
    full = MagicMock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
    said = pytest.raises(UserError, match=f"{folder}: the disk is full")
    with said, Log(tmp_path, 1) as log, patch("dvclive.Live.log_metric", full):
        log.values(2, "train", values)
    (folder / "metrics.json").write_text("")
    (curves / "accuracy.tsv").write_text("")
    (curves / "loss.tsv").write_text("step\tloss\n1\t1.0\n2\t0.")
    with Log(tmp_path, 1) as log:
        log.values(2, "train", values)
    assert (curves / "loss.tsv").read_text() == "step\tloss\n1\t1.0\n2\t1.0\n"
    assert (curves / "accuracy.tsv").read_text() == "step\taccuracy\n2\t0.5\n"
