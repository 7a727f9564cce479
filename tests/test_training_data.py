"""Streaming in exact epochs, resuming at any batch; lists of labelled faces, the same on all machines."""

import hashlib
import tarfile
from collections import Counter
from itertools import chain, groupby
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import config, manifest
from common.errors import UserError
from common.members import decode_mask
from tests.commands import run_command
from training.data.label_subsets import labelled_subset, read_subset, write_subsets
from training.data.loader import BrokenSamples, load
from training.data.sampler import planned_batches, sequential_batches
from training.data.samples import Samples, read_samples

STREAM = config.load().stream

uneven = st.lists(st.integers(1, 9), min_size=1, max_size=7)


def shard_of_each(sizes: list[int]) -> list[str]:
    return [f"train-{number:06d}.tar" for number, size in enumerate(sizes) for _ in range(size)]


def epoch_order(shards: list[str], seed: int, epoch: int, partitions: int) -> list[int]:
    """The samples of one epoch, in their order."""
    count = len(shards)
    batches = planned_batches(shards, seed, partitions, 1, epoch * count, (epoch + 1) * count)
    return list(chain.from_iterable(batches))


@given(uneven, st.integers(0, 99), st.integers(0, 99), st.integers(1, 9))
@settings(max_examples=60)
def test_an_epoch_has_every_sample_once_and_reads_each_shard_to_its_end_before_the_next(
    sizes, seed, epoch, partitions
):
    shards = shard_of_each(sizes)
    order = epoch_order(shards, seed, epoch, partitions)
    assert sorted(order) == list(range(len(shards)))
    for partition in range(partitions):
        read = [shards[sample] for sample in order[partition::partitions]]
        assert len(list(groupby(read))) == len(set(read))
    if len(shards) > 20:
        assert order != epoch_order(shards, seed, epoch + 1, partitions)
        assert order != epoch_order(shards, seed + 1, epoch, partitions)


@given(uneven, st.integers(1, 9), st.integers(1, 4), st.integers(1, 6), st.integers(0, 9), st.randoms())
@settings(max_examples=100)
def test_any_number_of_ranks_shares_the_same_batches_and_exact_epochs(
    sizes, partitions, share, world, stop, random
):
    shards = shard_of_each(sizes)
    random.shuffle(shards)  # the manifest need not list them shard by shard
    batch_size, steps = share * world, len(shards)  # so many batches are batch_size whole epochs
    alone = list(planned_batches(shards, 0, partitions, batch_size, 0, steps))
    assert set(Counter(chain.from_iterable(alone)).values()) == {batch_size}
    for rank in range(world):
        mine = list(planned_batches(shards, 0, partitions, batch_size, min(stop, steps), steps, rank, world))
        assert mine == [batch[rank::world] for batch in alone[stop:]]


@given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 9))
@settings(max_examples=60)
def test_each_shard_is_read_by_one_rank_in_all_epochs(size, times, seed):
    world, partitions = 4, 8
    shards = shard_of_each([size] * partitions * times)
    epochs, reads = 3, Counter[str]()
    for rank in range(world):
        sampler = planned_batches(
            shards, seed, partitions, world, 0, epochs * len(shards) // world, rank, world
        )
        reads.update({shards[sample] for batch in sampler for sample in batch})
    assert reads == Counter(set(shards))


@given(uneven, st.sampled_from([2, 4, 8]), st.integers(0, 9))
@settings(max_examples=60)
def test_uneven_shards_are_shared_by_ranks_only_where_partitions_are_cut(sizes, world, seed):
    shards, partitions = shard_of_each(sizes), 8
    reads = 0
    for rank in range(world):
        steps = -(-len(shards) // world)
        batches = list(planned_batches(shards, seed, partitions, world, 0, steps, rank, world))
        reads += len({shards[sample] for batch in batches[:-1] for sample in batch})
    assert reads <= len(sizes) + partitions - 1


def test_the_loader_gives_what_the_shards_hold_for_any_number_of_workers(shards):
    samples = read_samples(shards, ("train", "val", "test", "unlabelled"))
    planned = list(planned_batches(samples.shards, 1, 2, 5, 0, 6))
    serial, threaded = (list(load(samples, planned, {"jpg", "mask.png"}, n, STREAM)) for n in (0, 2))
    for one, other in zip(serial, threaded, strict=True):
        assert one.indices.tolist() == other.indices.tolist()
        assert np.array_equal(one.images, other.images)
        assert np.array_equal(one.masks, other.masks)
    first = serial[0]
    index = int(first.indices[0])
    row = next(row for row in manifest.read(shards.samples).rows() if row["key"] == samples.keys[index])
    with tarfile.open(shards.shards / row["shard"]) as tar:
        content = tar.extractfile(f"{row['key']}.mask.png")
        assert np.array_equal(first.masks[0], decode_mask(content.read()))
    labels = dict(zip(samples.attribute_names, samples.attributes[index].tolist(), strict=True))
    assert labels == {name: -1 if row[name] is None else row[name] for name in samples.attribute_names}
    assert first.images.shape[1:] == (3, 256, 256)
    assert int(first.masks.max()) <= 18


def test_the_loader_reads_only_the_members_that_are_needed_and_micro_batches_divide_a_batch(shards):
    samples = read_samples(shards, ("train",))
    (masks,) = load(samples, [[0, 1]], {"mask.png"}, 0, STREAM)
    (counts,) = load(samples, [[4, 2, 7, 5]], {"jpg", "parts.npy"}, 0, STREAM)
    assert (len(masks.images), len(masks.masks), len(masks.cell_counts)) == (0, 2, 0)
    assert (len(counts.images), len(counts.masks), len(counts.cell_counts)) == (4, 0, 4)
    side = masks.masks.shape[-1]
    assert counts.cell_counts.sum((1, 2, 3)).tolist() == [side * side] * 4
    halves = [counts.micro_batch(number, 2) for number in range(2)]
    assert [half.indices.tolist() for half in halves] == [[4, 7], [2, 5]]
    assert np.array_equal(halves[1].images, counts.images[1::2]) and len(halves[0].masks) == 0


def flip_bytes(samples: Samples, index: int) -> None:
    """Damage 40 bytes in the middle of a face: a decoder returns other pixels, not an error."""
    extent = samples.extent("jpg", index)
    with (samples.root / samples.shards[index]).open("r+b") as stream:
        stream.seek(extent.offset + extent.size // 2)
        damaged = bytes(255 - byte for byte in stream.read(40))
        stream.seek(extent.offset + extent.size // 2)
        stream.write(damaged)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_with_flipped_bytes_is_replaced_by_the_next_one_and_named_or_ends_the_run(
    copy, workers, capsys
):
    samples = read_samples(copy, ("train",))
    for index in (2, 3):
        flip_bytes(samples, index)
    broken, plan = BrokenSamples(2), [[0, 2], [3, 1], [2, 5]]
    batches = list(load(samples, plan, {"jpg"}, workers, STREAM, broken))
    assert [batch.indices.tolist() for batch in batches] == [[0, 4], [4, 1], [4, 5]]
    assert broken.keys == {samples.keys[2], samples.keys[3]}
    assert capsys.readouterr().err.count(f"sample {samples.keys[2]}: jpg: CRC-32") == 1
    with pytest.raises(UserError, match=rf"more than stream.max_broken=1.*{samples.keys[3]}"):
        list(load(samples, [[2, 3]], {"jpg"}, workers, STREAM, BrokenSamples(1)))
    with pytest.raises(UserError, match=rf"{samples.keys[2]}: jpg: CRC-32"):  # where each one counts
        list(load(samples, sequential_batches(samples, 4), {"jpg"}, workers, STREAM))
    victim = copy.shards / samples.shards[0]
    victim.write_bytes(victim.read_bytes()[:2000])
    with pytest.raises(UserError, match=victim.name):
        list(load(samples, [[4, 5]], {"jpg"}, workers, STREAM))


def test_processes_map_one_index_that_holds_what_the_manifest_does(shards, tmp_path):
    splits = ("train", "val", "unlabelled")
    alone, first, second = (read_samples(shards, splits, folder) for folder in (None, tmp_path, tmp_path))
    table = pq.read_table(shards.samples)
    rows = [row for row in table.to_pylist() if row["split"] in splits]
    for samples in (alone, first, second):
        assert list(samples.keys) == [row["key"] for row in rows]
        assert list(samples.shards) == [row["shard"] for row in rows]
        assert list(samples.identities) == [row["identity"] for row in rows]
        assert [samples.extent("mask.png", i).offset for i in range(len(rows))] == [
            row["mask.png.offset"] for row in rows
        ]
        assert np.array_equal(samples.attributes, alone.attributes)
    mapped = list(tmp_path.glob("index-*.arrow"))
    assert mapped[0].stat().st_size < 20_000
    assert not second.extents["jpg"].flags.owndata
    read_samples(shards, ("train",), tmp_path)
    assert len(list(tmp_path.glob("index-*.arrow"))) == 2


def samples_named(keys: list[str]) -> Samples:
    count = len(keys)
    return Samples(Path(), keys, ["s"] * count, {}, ("Male",), np.ones((count, 1), np.int8), [None] * count)


keys = st.lists(st.text("0123456789abcdef", min_size=16, max_size=16), min_size=1, max_size=60, unique=True)
part = st.floats(0, 1, exclude_min=True)


@given(keys, part, part, st.integers(0, 5), st.randoms(use_true_random=False))
@settings(max_examples=150)
def test_a_smaller_share_is_part_of_a_larger_one_in_any_order_of_faces(names, one, other, seed, random):
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
    files = [tmp_path / "seed3-10%.txt", tmp_path / "seed3-50%.txt"]
    assert done.stdout.split() == ["subsets:", str(files[0]), "subsets:", str(files[1])]
    train = {row["key"] for row in manifest.read(shards.samples).rows() if row["split"] == "train"}
    lists = []
    digest = hashlib.sha256(shards.samples.read_bytes()).hexdigest()
    for file in files:
        *head, count = (line for line in file.read_text().splitlines() if line[0] == "#")
        lists.append([line for line in file.read_text().splitlines() if line[0] != "#"])
        assert head[:3] == ["# data set: portraits", f"# shards.parquet: sha256 {digest}", "# seed: 3"]
        assert count.startswith(f"# count: {len(lists[-1])} of {len(train)} ")
        assert lists[-1] == sorted(lists[-1])
    assert set(lists[0]) < set(lists[1]) < train


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
        (None, "no list of keys"),
    ],
)
def test_a_list_that_does_not_fit_the_shards_is_refused_by_line(tmp_path, text, message):
    if text is not None:
        (tmp_path / "list.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        read_subset(tmp_path / "list.txt", samples_named(["k1", "k2"]))
