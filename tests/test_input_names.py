"""Inputs whose names or files other tools made unusual."""

import os
from pathlib import Path

import pytest
from PIL import Image

from common.config import load
from common.errors import UserError
from common.input_files import list_files
from pipeline.command import arguments, read_options
from pipeline.graph import set_input


@pytest.mark.parametrize(
    "name",
    ["\U0001f600 photos", "\U00020bb7野家", "null", "2020", "2021-07-04", 'a "b" \\ c: d'],
    ids=["an emoji", "rare CJK", "a YAML word", "a number", "a date", "quotes, a backslash and a colon"],
)
def test_a_folder_may_have_any_utf8_name(tmp_path: Path, name: str) -> None:
    folder, params = tmp_path / name, tmp_path / "params.yaml"
    folder.mkdir()
    flags = arguments("", "pipeline.ingest").parse_args(["--input", str(folder)])
    assert read_options(flags)[0].data.input == str(folder)
    params.write_text("data:\n  input: sample\n  name: sample\n", encoding="utf-8")
    set_input(str(folder), params)
    assert load([params]).data.input == str(folder)


def test_a_folder_whose_name_is_not_utf8_is_refused_in_one_sentence(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff"))
    folder.mkdir()
    flags = arguments("", "pipeline.ingest").parse_args(["--input", str(folder)])
    with pytest.raises(UserError, match=r"--input .*bad\\xff: the name is not UTF-8; rename it"):
        read_options(flags)
    with pytest.raises(UserError, match=r"--input .*bad\\xff: the name is not UTF-8; rename it"):
        set_input(str(folder))


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (f"blobs/{'0af9' * 16}", None),
        (f"blobs/{'0af9' * 10}", None),
        (f".dvc/cache/files/md5/ab/{'0af9' * 7}0a", None),
        ("elsewhere/secret.jpg", "link-outside"),
    ],
    ids=[
        "Hugging Face's cache",
        "Hugging Face's cache, by Git's hash",
        "DVC's cache",
        "any other file is refused",
    ],
)
def test_files_that_are_links_into_a_cache_are_read(tmp_path: Path, target: str, reason: str | None) -> None:
    file, root = tmp_path / target, tmp_path / "snapshots" / "main"
    file.parent.mkdir(parents=True)
    root.mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(file, "JPEG")
    (root / "1.jpg").symlink_to(os.path.relpath(file, root))
    (listed,) = list_files(root)
    assert (listed.refused or (None,))[0] == reason
