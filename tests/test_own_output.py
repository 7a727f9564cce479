"""What this project wrote is no input, and two inputs of one name do not replace each other."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common import manifest
from common.config import load
from common.errors import UserError
from common.input_files import list_files
from common.layout import MARKER, Layout, mark_output
from common.storage import address
from pipeline.ingest.run import ingest
from pipeline.runner.shard_record import ShardTask, write_record


def write_photo(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def planned(root: Path, output: Path) -> list[str]:
    """The sources of a plan."""
    ingest(load(settings=[f"data.input={root}", "data.name=photos"]), Layout.at(output))
    return manifest.read(Layout.at(output).source).table["source"].to_pylist()


def write_shard(output: Path) -> None:
    """What the stages leave in an output."""
    folder = output / "photos"
    mark_output(folder)
    tar = folder / "unlabelled-000000.tar"
    tar.write_bytes(bytes(1024))
    write_record(ShardTask(tar, "inputs", "code", 1), [{"key": "k"}], [])


@pytest.mark.parametrize("name", ["out", ".", "deep/out"], ids=["below it", "the input itself", "deep in it"])
@pytest.mark.parametrize("again", [True, False], ids=["the same output", "another output"])
def test_an_output_inside_the_input_is_no_source(
    tmp_path: Path, name: str, again: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "in"
    write_photo(root / "a.png", 1)
    output = root / name
    assert planned(root, output) == ["a.png"]
    write_shard(output)
    assert planned(root, output if again else tmp_path / "other") == ["a.png"]
    assert "2 files are no photos: this project's output (2)" in capsys.readouterr().out


def test_an_output_inside_a_remote_input_is_no_source(tmp_path: Path) -> None:
    root = address(f"memory://{tmp_path.name}")
    for name in ("a.png", "out/manifests/source.parquet", f"out/manifests/{MARKER}"):
        root.joinpath(name).parent.mkdir(parents=True, exist_ok=True)
        root.joinpath(name).write_bytes(b"x")
    assert [file.path for file in list_files(root) if not file.refused] == ["a.png"]


def test_another_input_of_the_same_name_is_refused_and_the_same_one_elsewhere_is_not(tmp_path: Path) -> None:
    one, two, output = tmp_path / "one" / "photos", tmp_path / "two" / "photos", tmp_path / "out"
    write_photo(one / "1.png", 1)
    write_photo(two / "1.png", 2)
    planned(one, output)
    write_shard(output)
    with pytest.raises(UserError, match=r"made from .*one/photos, are not in the input .*two/photos"):
        planned(two, output)
    (tmp_path / "three").mkdir()
    one.rename(tmp_path / "three" / "photos")
    assert planned(tmp_path / "three" / "photos", output) == ["1.png"]
