"""Verify finds each kind of damage, and nothing in a whole set."""

import os
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import astuple
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any
from zlib import crc32

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common import manifest
from common.layout import Layout
from common.members import (
    MEMBERS,
    decode_cell_counts,
    decode_mask,
    decode_metadata,
    encode_array,
    encode_face,
    encode_mask,
    encode_metadata,
)
from common.shards import ShardWriter, read_shard
from pipeline.verify.shard import verify
from tests.commands import run_command

Members = dict[str, bytes]
MANIFESTS = ("source.parquet", "shards.parquet", "quarantine.parquet")


@pytest.fixture
def report(copy, cluster_config):
    """What verify says of the copy."""
    return partial(verify, cluster_config.cluster, copy)


def rewrite(path: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    """Change the rows of a manifest."""
    before = manifest.read(path)
    rows = before.rows()
    change(rows)
    table = pa.Table.from_pylist(rows, schema=before.table.schema)
    pq.write_table(table, path)


def first_tar(layout: Layout) -> Path:
    return layout.shards / pq.read_table(layout.samples)["shard"][0].as_py()


def change_samples(layout: Layout, change: Callable[[list[tuple[str, Members]]], object]) -> None:
    """Change members of the first tar and write it again, with offsets, sizes and checksums to match."""
    samples = list(read_shard(first_tar(layout)))
    change(samples)
    written: dict[str, dict[str, int]] = {}
    with ShardWriter(first_tar(layout)) as writer:
        for key, members in samples:
            for name, extent in writer.add(key, members).items():
                numbers = zip(manifest.MEMBER_COLUMNS, (*astuple(extent), crc32(members[name])), strict=True)
                written.setdefault(key, {}).update({f"{name}.{what}": number for what, number in numbers})
    rewrite(layout.samples, lambda rows: [row.update(written.get(row["key"], {})) for row in rows])


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)


def test_a_whole_set_passes_and_a_damaged_one_gets_a_table_of_places(shards, copy, cluster_config):
    cluster = ("--scheduler", cluster_config.cluster.scheduler)
    finished = run_command("pipeline.verify", "--shards", shards.shards, *cluster)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "checksums" in finished.stdout
    assert "not checked" not in finished.stdout
    row = pq.read_table(copy.samples).to_pylist()[3]
    flip(copy.shards / row["shard"], row["jpg.offset"] + row["jpg.size"] // 2)
    finished = run_command("pipeline.verify", "--shards", copy.shards, *cluster)
    assert finished.returncode == 1
    assert f"{row['shard']}: {row['key']}.jpg" in finished.stdout
    assert "Traceback" not in finished.stdout + finished.stderr


def test_one_flipped_bit_of_any_member_is_found(copy, report):
    members = [*MEMBERS, "pooled.npy"]
    for row, member in zip(pq.read_table(copy.samples).to_pylist(), members, strict=False):
        flip(copy.shards / row["shard"], row[f"{member}.offset"] + row[f"{member}.size"] // 2)
    assert report().counts == {"checksums": len(members)}


def recounted(one: Members) -> bytes:
    counts = decode_cell_counts(one["parts.npy"]).copy()
    counts[0, 0, 0] += 1
    return encode_array(counts)


def unknown_class(one: Members) -> bytes:
    mask = decode_mask(one["mask.png"]).copy()
    mask[5, 5] = 19
    return cv2.imencode(".png", mask)[1].tobytes()


@pytest.mark.parametrize(
    ("member", "edit", "expected"),
    [
        ("mask.png", lambda one, two: two["mask.png"], {"cell-counts": 1}),
        ("parts.npy", lambda one, two: recounted(one), {"cell-counts": 1}),
        ("mask.png", lambda one, two: encode_mask(np.zeros((128, 128), np.uint8)), {"masks": 1}),
        ("mask.png", lambda one, two: unknown_class(one), {"masks": 1}),
        ("jpg", lambda one, two: encode_face(np.zeros((128, 128, 3), np.uint8)), {"faces": 1, "members": 1}),
        ("jpg", lambda one, two: encode_face(np.zeros((128, 256, 3), np.uint8)), {"faces": 1}),
    ],
)
def test_members_that_do_not_fit_each_other_are_found(member, edit, expected, copy, report):
    def change(samples: list[tuple[str, Members]]) -> None:
        samples[0][1][member] = edit(samples[0][1], samples[1][1])
        if "members" in expected:
            del samples[0][1]["mask.png"]

    change_samples(copy, change)
    assert report().counts == expected


def test_metadata_that_disagree_with_the_manifest_are_found(copy, report):
    edits = [("source", "another.jpg"), ("sha256", "0" * 64), ("confidence", [0.5] * 19)]
    edits += [("confidence", "high"), ("box_score", 0.5)]

    def edit(samples: list[tuple[str, Members]]) -> None:
        for (_, members), change in zip(samples, edits, strict=False):
            members["json"] = encode_metadata(decode_metadata(members["json"]) | dict([change]))

    change_samples(copy, edit)
    findings = report()
    assert findings.counts == {"metadata": len(edits)}
    examples = "\n".join(findings.examples["metadata"])
    assert all(field in examples for field, _ in edits[:3])


@pytest.mark.parametrize(
    ("member", "check"),
    [("jpg", "faces"), ("mask.png", "masks"), ("parts.npy", "cell-counts"), ("json", "metadata")],
)
def test_a_member_that_is_something_else_is_found(member, check, copy, report):
    contents = [b"", b"garbage", b"PK\x03\x04zip", b"[" * 100_000]

    def change(samples: list[tuple[str, Members]]) -> None:
        for (_, members), content in zip(samples, contents, strict=False):
            members[member] = content

    change_samples(copy, change)
    assert report().counts == {check: len(contents)}


def append(tar: Path) -> None:
    with tarfile.open(tar, "a") as archive:
        entry = tarfile.TarInfo("../../etc/passwd")
        entry.size = 4
        archive.addfile(entry, BytesIO(b"root"))


def header_of(tar: Path, number: int) -> int:
    with tarfile.open(tar) as archive:
        return archive.getmembers()[number].offset


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda tar: os.truncate(tar, int(0.999 * tar.stat().st_size)), {"tars": 1}),
        (lambda tar: os.truncate(tar, tar.stat().st_size // 100), {"tars": 1}),
        (lambda tar: os.truncate(tar, 0), {"tars": 1}),
        (lambda tar: os.truncate(tar, header_of(tar, 5)), {"tars": 1}),
        (lambda tar: flip(tar, header_of(tar, 6) + 3), {"tars": 1}),
        (lambda tar: tar.rename(tar.with_name("train-000099.tar")), {"missing-tars": 1, "extra-tars": 1}),
        (append, {"members": 1}),
    ],
    ids=["an end", "most", "all", "between members", "a header", "another name", "another member"],
)
def test_a_cut_changed_or_moved_tar_is_found(damage, expected, copy, report):
    damage(first_tar(copy))
    assert report().counts == expected


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("jpg.offset", 0, {"extents": 1}),
        ("jpg.size", 10**15, {"extents": 1}),
        ("mask.png.offset", -5, {"extents": 1}),
        ("mask.png.crc32", 7, {"checksums": 1}),
        ("key", "0123456789abcdef", {"members": 10}),
        ("source", "img_align_celeba/nobody.jpg", {"sources": 2, "metadata": 1}),
        ("split", "unlabelled", {"source-rows": 1, "identities": 1}),
        ("split", "exam", {"source-rows": 1, "splits": 1, "identities": 1}),
        ("Male", None, {"source-rows": 1}),
        ("identity", "nobody", {"source-rows": 1}),
        ("confidence", 0.01, {"metadata": 1}),
        ("box_score", 0.5, {"metadata": 1}),
    ],
)
def test_an_edited_row_is_found(column, value, expected, copy, report):
    rewrite(copy.samples, lambda rows: rows[0].update({column: value}))
    assert report().counts == expected


def test_rows_twice_lost_and_contradicting_are_found(copy, report):
    lost = pq.read_table(copy.samples).to_pylist()[0]
    rewrite(copy.samples, lambda rows: rows.append(dict(rows[0])))
    assert report().counts == {"keys": 1}
    rewrite(copy.samples, lambda rows: (rows.pop(), rows.pop(0)))
    assert report().counts == {"sources": 1, "members": 5}
    rewrite(copy.samples, lambda rows: rows.insert(0, lost))
    refused = {"source": lost["source"], "reason": "no-face", "detail": "none"}
    rewrite(copy.quarantine, lambda rows: rows.append(refused))
    assert report().counts == {"sources": 1}
    rewrite(copy.quarantine, lambda rows: rows[-1].update(source="nobody.jpg", reason=None))
    assert report().counts == {"sources": 2}
    rewrite(copy.source, lambda rows: rows.append(dict(rows[0])))
    assert report().counts == {"sources": 3}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_missing_or_unreadable_manifest_or_one_without_a_column_is_a_finding(name, copy, report):
    table = pq.read_table(copy.manifests / name)
    lost = table.column_names[0]
    pq.write_table(table.drop_columns([lost]), copy.manifests / name)
    findings = report()
    assert findings.counts == {"manifests": 1}
    assert f'"{lost}"' in findings.examples["manifests"][0]
    assert "not checked: needs the manifests" in findings.table()
    (copy.manifests / name).write_bytes(b"no parquet")
    assert report().counts == {"manifests": 1}
    (copy.manifests / name).unlink()
    assert report().counts == {"manifests": 1}


@given(st.integers(0, 2**32), st.sampled_from(MANIFESTS))
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_garbage_in_a_manifest_ends_in_findings_or_none(shards, copy, report, seed, name):
    shutil.copytree(shards.manifests, copy.manifests, dirs_exist_ok=True)
    random = np.random.default_rng(seed)
    content = bytearray((shards.manifests / name).read_bytes())
    start = int(random.integers(0, len(content)))
    content[start : start + 9] = random.bytes(9)
    (copy.manifests / name).write_bytes(content)
    report()


def test_a_shard_name_that_leaves_the_folder_is_not_followed(copy, report):
    first, out = pq.read_table(copy.samples)["shard"][0].as_py(), "../outside.tar"
    shutil.copy(copy.shards / first, copy.shards.parent / "outside.tar")
    for path in (copy.samples, copy.source):
        rewrite(path, lambda rows: [row.update(shard=out) for row in rows if row["shard"] == first])
    assert set(report().counts) == {"missing-tars", "extra-tars", "splits"}


@given(st.integers(0, 2**32), st.integers(1, 2000))
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_garbage_anywhere_in_a_tar_is_found_or_harmless(shards, copy, report, seed, length):
    random = np.random.default_rng(seed)
    content = bytearray(first_tar(shards).read_bytes())
    start = int(random.integers(0, len(content)))
    content[start : start + length] = random.bytes(length)
    first_tar(copy).write_bytes(content)
    if not report().counts:
        assert list(read_shard(first_tar(copy))) == list(read_shard(first_tar(shards)))
