"""Lists of labelled faces: nested, the same on every machine, and validated when they are read."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import manifest
from common.errors import UserError
from tests.commands import run_command
from training.data.label_subsets import labelled_subset, read_subset, share, write_subsets
from training.data.samples import Samples, read_samples


def samples_named(keys: list[str]) -> Samples:
    count = len(keys)
    return Samples(Path(), keys, ["s"] * count, {}, ("Male",), np.ones((count, 1), np.int8), [None] * count)


keys = st.lists(st.text("0123456789abcdef", min_size=16, max_size=16), min_size=1, max_size=60, unique=True)
part = st.floats(0, 1, exclude_min=True)


@given(keys, part, part, st.integers(0, 5), st.randoms(use_true_random=False))
@settings(max_examples=150)
def test_a_smaller_share_is_part_of_a_larger_one_in_whatever_order_the_faces_come(
    names, one, other, seed, random
):
    small, large = (
        set(np.array(names)[labelled_subset(samples_named(names), s, seed)]) for s in sorted((one, other))
    )
    assert small <= large
    assert len(large) == max(1, round(max(one, other) * len(names)))
    shuffled = list(names)
    random.shuffle(shuffled)
    assert set(np.array(shuffled)[labelled_subset(samples_named(shuffled), min(one, other), seed)]) == small


def test_the_command_writes_nested_lists_with_their_origin(shards, tmp_path):
    flags = ("--labels", "10%", "0.5", "--set", "finetune.seed=3", "--write-subsets", tmp_path)
    done = run_command("training.run", "--shards", shards.shards, *flags)
    assert done.stdout.split() == [
        word for name in ("seed3-10%.txt", "seed3-50%.txt") for word in ("subsets:", str(tmp_path / name))
    ]
    train = [row for row in manifest.read(shards.samples).rows() if row["split"] == "train"]
    lists = {}
    for name in ("seed3-10%.txt", "seed3-50%.txt"):
        head, lists[name] = split((tmp_path / name).read_text())
        digest = hashlib.sha256(shards.samples.read_bytes()).hexdigest()
        assert head[:3] == ["# data set: portraits", f"# shards.parquet: sha256 {digest}", "# seed: 3"]
        assert head[3].startswith(f"# count: {len(lists[name])} of {len(train)} ")
        assert lists[name] == sorted(lists[name])
    assert set(lists["seed3-10%.txt"]) < set(lists["seed3-50%.txt"]) < {row["key"] for row in train}


def split(text: str) -> tuple[list[str], list[str]]:
    lines = text.splitlines()
    return [line for line in lines if line.startswith("#")], [line for line in lines if line[0] != "#"]


def test_a_list_reads_back_as_the_faces_that_were_drawn(shards, tmp_path):
    (file,) = write_subsets(shards, [0.4], 1, tmp_path)
    (again,) = write_subsets(shards, [0.4], 1, tmp_path / "again")
    assert again.read_bytes() == file.read_bytes()
    labelled = read_samples(shards, ("train",)).labelled()
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())  # as editors of Windows save it
    assert read_subset(file, labelled).tolist() == labelled_subset(labelled, 0.4, 1).tolist()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# seed: 0\nk1\nother\nmore\n", r"line 3: other is no labelled train face .*2 of 3 keys"),
        ("k1\nk2\n\nk1\n", "line 4: k1 is listed twice"),
        ("# seed: 0\n", "lists no key"),
    ],
)
def test_a_list_that_does_not_fit_the_shards_is_refused_by_line(tmp_path, text, message):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        read_subset(tmp_path / "list.txt", samples_named(["k1", "k2"]))
    with pytest.raises(UserError, match="no list of keys"):
        read_subset(tmp_path / "none.txt", samples_named(["k1"]))


@pytest.mark.parametrize("text", ["0", "101%", "many"])
def test_an_invalid_share_is_refused(text):
    with pytest.raises(UserError, match=f"--labels {text}: neither a file nor a share above 0"):
        share(text)
