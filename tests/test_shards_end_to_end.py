"""The whole offline half on painted faces: the format by an independent reader, resume, bad input."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from common import weights
from common.errors import UserError
from pipeline.parse.run import parse
from pipeline.runner.shard_record import record_path
from tests.commands import run_command
from tests.conftest import PORTRAITS, run_pipeline


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*.tar"))}


def test_every_sample_has_the_documented_format(shards, portraits):
    rows = pq.read_table(shards.samples).to_pylist()
    assert len(rows) == PORTRAITS
    by_key = {row["key"]: row for row in rows}
    assert len(by_key) == len(rows)
    seen = 0
    for path in sorted((shards.shards / "portraits").glob("*.tar")):
        content = path.read_bytes()
        with tarfile.open(path) as tar:
            entries = tar.getmembers()
        assert {(entry.mtime, entry.uname, entry.mode) for entry in entries} == {(0, "root", 0o644)}
        for group in (entries[i : i + 5] for i in range(0, len(entries), 5)):
            key = group[0].name.split(".")[0]
            row = by_key[key]
            assert row["shard"] == f"portraits/{path.name}"
            data = {}
            for entry in group:
                name = entry.name.removeprefix(f"{key}.")
                assert (row[f"{name}.offset"], row[f"{name}.size"]) == (entry.offset_data, entry.size)
                data[name] = content[entry.offset_data : entry.offset_data + entry.size]
            check_sample(key, data, row, portraits)
            seen += 1
    assert seen == PORTRAITS


def check_sample(key: str, data: dict[str, bytes], row: dict[str, object], portraits: Path) -> None:
    assert sorted(data) == ["jpg", "json", "mask.png", "parts.npy", "pooled.npy"]
    face = Image.open(io.BytesIO(data["jpg"]))
    mask_image = Image.open(io.BytesIO(data["mask.png"]))
    assert (face.size, face.mode, face.format) == ((256, 256), "RGB", "JPEG")
    assert (mask_image.size, mask_image.mode) == ((256, 256), "L")
    mask = np.asarray(mask_image)
    assert mask.max() <= 18
    parts = np.load(io.BytesIO(data["parts.npy"]), allow_pickle=False)
    assert (parts.dtype, parts.shape) == (np.uint16, (12, 12, 19))
    for i in range(12):
        for j in range(12):
            rows = slice(i * 256 // 12, (i + 1) * 256 // 12)
            columns = slice(j * 256 // 12, (j + 1) * 256 // 12)
            assert parts[i, j].tolist() == np.bincount(mask[rows, columns].ravel(), minlength=19).tolist()
    metadata = json.loads(data["json"])
    source = portraits / metadata["source"]
    assert metadata["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert key == metadata["sha256"][:16]
    assert not metadata.keys() & {"split", "identity", "attributes"}
    assert (metadata["box_score"], metadata["landmarks"]) == (None, None)
    assert np.allclose(metadata["matrix"][0][0], 256 / 178, atol=1e-5)
    assert (metadata["parser"], metadata["parser_size"]) == ("bisenet", 448)
    assert metadata["parser_sha256"] == weights.KNOWN["bisenet"].sha256
    present = np.bincount(mask.ravel(), minlength=19) > 0
    assert (np.array(metadata["confidence"]) > 0).tolist() == present.tolist()


def test_webdataset_and_datasets_read_the_shards(shards, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets  # reads that variable
    import webdataset

    files = [str(file) for file in sorted((shards.shards / "portraits").glob("train-*.tar"))]
    table = datasets.load_dataset("webdataset", data_files=files, split="train", cache_dir=tmp_path)
    samples = list(webdataset.WebDataset(files, shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in samples] == table["__key__"][:]
    for sample, row in zip(samples, table, strict=True):
        assert np.array_equal(np.asarray(row["jpg"]), sample["jpg"])
        assert np.array_equal(np.asarray(row["mask.png"]), sample["mask.png"][..., 0])
        assert np.array_equal(row["parts.npy"], sample["parts.npy"])
        assert np.array_equal(row["pooled.npy"], sample["pooled.npy"])
        assert row["json"]["source"] == sample["json"]["source"]


def test_masks_agree_with_the_painters_truth(shards, portraits):
    right, pixels = 0, 0
    for row in pq.read_table(shards.samples).to_pylist():
        with tarfile.open(shards.shards / row["shard"]) as tar:
            member = tar.extractfile(f"{row['key']}.mask.png")
            mask = np.asarray(Image.open(io.BytesIO(member.read())))
        truth = Image.open(portraits / "masks" / f"{Path(row['source']).stem}.png").crop((0, 20, 178, 198))
        expected = np.asarray(truth.resize((256, 256), Image.Resampling.NEAREST))
        right += int((mask == expected).sum())
        pixels += mask.size
    assert right / pixels > 0.85


def test_a_second_run_changes_nothing(shards, pipeline_config):
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in shards.shards.rglob("*.tar")}
    manifests = {p: p.read_bytes() for p in shards.manifests.rglob("*") if p.is_file()}
    run_pipeline(pipeline_config, shards)
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in shards.shards.rglob("*.tar")} == before
    assert {p: p.read_bytes() for p in shards.manifests.rglob("*") if p.is_file()} == manifests


def test_a_lost_shard_is_made_again_alone_and_to_the_same_bytes(pipeline_config, copy):
    before = digests(copy.shards)
    tars = sorted((copy.shards / "portraits").glob("*.tar"))
    record_path(tars[0]).unlink()
    kept = tars[1].stat().st_mtime_ns
    foreign = copy.shards / "portraits" / "train-000099.tar"
    foreign.write_bytes(b"left by an earlier plan")
    with pytest.raises(UserError, match=r"1 shards that are not in the plan.*train-000099\.tar; --prune"):
        run_pipeline(pipeline_config, copy)
    assert foreign.exists()
    parse(pipeline_config, copy, prune=True)
    assert digests(copy.shards) == before
    assert tars[1].stat().st_mtime_ns == kept
    assert not foreign.exists()


def test_wrong_weights_are_refused_with_both_hashes(pipeline_config, tmp_path):
    wrong = tmp_path / "mine.pth"
    wrong.write_bytes(b"wrong")
    settings = pipeline_config.weights.model_copy(update={"parser": str(wrong), "cache": str(tmp_path)})
    with pytest.raises(UserError) as refused:
        weights.find("bisenet", settings)
    assert hashlib.sha256(b"wrong").hexdigest() in str(refused.value)
    assert weights.KNOWN["bisenet"].sha256 in str(refused.value)


def test_a_wrong_folder_is_one_line_and_no_traceback(tmp_path):
    done = run_command("pipeline.parse", "--input", tmp_path / "none")
    assert done.returncode == 1
    assert done.stderr == f"error: {tmp_path / 'none'} is not a folder; --input names a folder of photos\n"
