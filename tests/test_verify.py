"""Verify finds each kind of damage, and nothing in a whole set."""

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
from pipeline.verify.findings import Findings
from pipeline.verify.shard import verify
from tests.commands import run_command

Members = dict[str, bytes]
MANIFESTS = ("source.parquet", "shards.parquet", "quarantine.parquet")


Report = Callable[[], Findings]


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


@pytest.mark.parametrize("member", [*MEMBERS, "pooled.npy"])
def test_one_flipped_bit_of_any_member_is_found(member, copy, report):
    row = pq.read_table(copy.samples).to_pylist()[0]
    flip(copy.shards / row["shard"], row[f"{member}.offset"] + row[f"{member}.size"] // 2)
    assert report().counts == {"checksums": 1}


def swap_masks(one: Members, two: Members) -> None:
    one["mask.png"], two["mask.png"] = two["mask.png"], one["mask.png"]


def edit_counts(one: Members, two: Members) -> None:
    counts = decode_cell_counts(one["parts.npy"]).copy()
    counts[0, 0, 0] += 1
    one["parts.npy"] = encode_array(counts)


def shrink_mask(one: Members, two: Members) -> None:
    one["mask.png"] = encode_mask(np.ascontiguousarray(decode_mask(one["mask.png"])[::2, ::2]))


def unknown_class(one: Members, two: Members) -> None:
    mask = decode_mask(one["mask.png"]).copy()
    mask[5, 5] = 19
    one["mask.png"] = cv2.imencode(".png", mask)[1].tobytes()


def smaller_face_without_mask(one: Members, two: Members) -> None:
    one["jpg"] = encode_face(np.zeros((128, 128, 3), np.uint8))
    del one["mask.png"]


def oblong_face(one: Members, two: Members) -> None:
    one["jpg"] = encode_face(np.zeros((128, 256, 3), np.uint8))


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (swap_masks, {"cell-counts": 2}),
        (edit_counts, {"cell-counts": 1}),
        (shrink_mask, {"masks": 1}),
        (unknown_class, {"masks": 1}),
        (smaller_face_without_mask, {"faces": 1, "members": 1}),
        (oblong_face, {"faces": 1}),
    ],
)
def test_members_that_do_not_fit_each_other_are_found(edit, expected, copy, report):
    change_samples(copy, lambda samples: edit(samples[0][1], samples[1][1]))
    assert report().counts == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("source", "another.jpg"),
        ("sha256", "0" * 64),
        ("confidence", [0.5] * 19),
        ("confidence", "high"),
        ("box_score", 0.5),
    ],
)
def test_metadata_that_disagree_with_the_manifest_are_found(field, value, copy, report):
    def edit(samples: list[tuple[str, Members]]) -> None:
        samples[0][1]["json"] = encode_metadata(decode_metadata(samples[0][1]["json"]) | {field: value})

    change_samples(copy, edit)
    findings = report()
    assert findings.counts == {"metadata": 1}
    assert field in findings.examples["metadata"][0]


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04zip", b"[" * 100_000])
def test_a_member_that_is_something_else_is_found(member, content, copy, report):
    change_samples(copy, lambda samples: samples[0][1].update({member: content}))
    check = {"jpg": "faces", "mask.png": "masks", "parts.npy": "cell-counts", "json": "metadata"}[member]
    assert report().counts == {check: 1}


@pytest.mark.parametrize("kept", [0.999, 0.5, 0.01, 0.0, "between members"])
def test_a_cut_tar_is_found(kept, copy, report):
    tar = first_tar(copy)
    content = tar.read_bytes()
    length = int(len(content) * kept) if isinstance(kept, float) else header_of(tar, 5)
    tar.write_bytes(content[:length])
    assert report().counts == {"tars": 1}


def header_of(tar: Path, number: int) -> int:
    with tarfile.open(tar) as archive:
        return archive.getmembers()[number].offset


def test_a_damaged_header_in_the_middle_of_a_tar_is_found(copy, report):
    flip(first_tar(copy), header_of(first_tar(copy), 6) + 3)
    assert report().counts == {"tars": 1}


def test_a_missing_and_an_extra_tar_are_found(copy, report):
    tar = first_tar(copy)
    tar.rename(tar.with_name("train-000099.tar"))
    assert report().counts == {"missing-tars": 1, "extra-tars": 1}


def test_a_sample_that_no_manifest_lists_is_found(copy, report):
    with tarfile.open(first_tar(copy), "a") as archive:
        entry = tarfile.TarInfo("../../etc/passwd")
        entry.size = 4
        archive.addfile(entry, BytesIO(b"root"))
    assert report().counts == {"members": 1}


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


def test_an_identity_in_two_splits_is_found(copy, report):
    rows = pq.read_table(copy.source).to_pylist()
    first = next(row["source"] for row in rows if row["split"] == "train")
    other = next(row["identity"] for row in rows if row["split"] == "test")
    for path in (copy.source, copy.samples):
        rewrite(path, lambda rows: [row.update(identity=other) for row in rows if row["source"] == first])
    assert report().counts == {"identities": 1}


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
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_garbage_in_a_manifest_ends_in_findings_or_none(shards, copy, report, seed, name):
    shutil.copytree(shards.manifests, copy.manifests, dirs_exist_ok=True)
    random = np.random.default_rng(seed)
    content = bytearray((shards.manifests / name).read_bytes())
    start = int(random.integers(0, len(content)))
    content[start : start + 9] = random.bytes(9)
    (copy.manifests / name).write_bytes(content)
    report()


def test_a_shard_name_that_leaves_the_folder_is_not_followed(copy, report):
    first = pq.read_table(copy.samples)["shard"][0].as_py()
    shutil.copy(copy.shards / first, copy.shards.parent / "outside.tar")
    for path in (copy.samples, copy.source):
        rewrite(
            path, lambda rows: [row.update(shard="../outside.tar") for row in rows if row["shard"] == first]
        )
    assert set(report().counts) == {"missing-tars", "extra-tars", "splits"}


@given(st.integers(0, 2**32), st.integers(1, 2000))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_garbage_anywhere_in_a_tar_is_found_or_harmless(shards, copy, report, seed, length):
    random = np.random.default_rng(seed)
    content = bytearray(first_tar(shards).read_bytes())
    start = int(random.integers(0, len(content)))
    content[start : start + length] = random.bytes(length)
    first_tar(copy).write_bytes(content)
    before = {key: members for key, members in read_shard(first_tar(shards))}
    if not report().counts:
        assert {key: members for key, members in read_shard(first_tar(copy))} == before
