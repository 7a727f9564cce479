"""The offline half on painted faces: the format by independent readers, resume, bad input, sibling sets."""

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from common import manifest, weights
from common.cell_counts import cell_class_counts, dominant_classes, merge_cells
from common.classes import CLASSES
from common.config import Config
from common.errors import UserError
from common.layout import Layout
from common.members import decode_mask
from common.shards import read_shard
from pipeline.parse.run import make_sibling, parse
from pipeline.runner.shard_record import record_path
from pipeline.verify.agreement import Agreement
from pipeline.verify.shard import verify
from tests import manifests
from tests.commands import run_command
from tests.conftest import PORTRAITS, run_pipeline

pytestmark = pytest.mark.usefixtures("workers")


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
    edges = np.arange(13) * 256 // 12
    for i, j in np.ndindex(12, 12):
        cell = mask[edges[i] : edges[i + 1], edges[j] : edges[j + 1]]
        assert parts[i, j].tolist() == np.bincount(cell.ravel(), minlength=19).tolist()
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


def test_a_second_run_changes_nothing(shards, pipeline_config):
    def state() -> dict[Path, tuple[int, bytes]]:
        tars = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in shards.shards.rglob("*.tar")}
        return tars | {path: (0, path.read_bytes()) for path in shards.manifests.rglob("*") if path.is_file()}

    before = state()
    run_pipeline(pipeline_config, shards)
    assert state() == before


def test_a_lost_shard_is_made_again_alone_and_to_the_same_bytes(pipeline_config, copy):
    tars = sorted((copy.shards / "portraits").glob("*.tar"))
    before = [tar.read_bytes() for tar in tars]
    record_path(tars[0]).unlink()
    kept = tars[1].stat().st_mtime_ns
    foreign = copy.shards / "portraits" / "train-000099.tar"
    foreign.write_bytes(b"left by an earlier plan")
    with pytest.raises(UserError, match=r"1 shards that are not in the plan.*train-000099\.tar; --prune"):
        run_pipeline(pipeline_config, copy)
    assert foreign.exists()
    parse(pipeline_config, copy, prune=True)
    assert [tar.read_bytes() for tar in tars] == before
    assert (tars[1].stat().st_mtime_ns, foreign.exists()) == (kept, False)


def test_a_wrong_folder_is_one_line_and_no_traceback(tmp_path):
    done = run_command("pipeline.parse", "--input", tmp_path / "none")
    assert done.returncode == 1
    assert done.stderr == f"error: {tmp_path / 'none'} is not a folder; --input names a folder of photos\n"


TOP = 9


@pytest.fixture(scope="module")
def sibling(shards, cluster_config, tmp_path_factory):
    """The same faces, parsed again at 256 pixels by the command, which is told of no photos."""
    output = tmp_path_factory.mktemp("sibling")
    flags = ("--from", shards.shards, "--output", output, "--scheduler", cluster_config.cluster.scheduler)
    settings = ("--set", "parse.size=256", "--set", "data.input=nowhere")
    finished = run_command("pipeline.parse", *flags, *settings)
    assert finished.returncode == 0, finished.stderr
    return Layout.at(output)


def test_a_sibling_set_is_made_without_the_photos_and_is_whole(shards, sibling, cluster_config):
    assert not sibling.aligned.exists()
    for layout in (shards, sibling):
        findings = verify(cluster_config.cluster, layout)
        assert not findings, findings.table()
    first, second = (pq.read_table(layout.samples).to_pylist() for layout in (shards, sibling))
    assert [row["key"] for row in first] == [row["key"] for row in second]
    assert [row["jpg.crc32"] for row in first] == [row["jpg.crc32"] for row in second]
    assert [row["mask.png.crc32"] for row in first] != [row["mask.png.crc32"] for row in second]


def test_a_sibling_is_neither_the_set_itself_nor_replaces_another_data_set(shards, tmp_path):
    with pytest.raises(UserError, match="--output"):
        make_sibling(shards, Layout.at(shards.shards))
    output, listed = Layout.at(tmp_path), manifest.read(shards.source)
    metadata = dict(listed.metadata) | {"dataset": "others"}
    manifests.write_table(output.source, listed.table, listed.attributes, metadata)
    with pytest.raises(UserError, match="holds the data set others"):
        make_sibling(shards, output)


def masks(layout: Layout) -> dict[str, np.ndarray]:
    return {
        key: decode_mask(members["mask.png"])
        for tar in sorted(layout.shards.glob("portraits/*.tar"))
        for key, members in read_shard(tar)
    }


def compare(cluster_config: Config, first: Layout, second: Layout, patches: int = 1) -> dict[str, Any]:
    """The figures of two sets of which the first is whole."""
    agreement = Agreement(patches, TOP)
    findings = verify(cluster_config.cluster, first, second, agreement)
    assert not findings, findings.table()
    return agreement.figures()


@pytest.mark.parametrize("patches", [1, 3])
def test_two_sets_are_compared_pixel_by_pixel_and_patch_by_patch(patches, shards, sibling, cluster_config):
    figures = compare(cluster_config, shards, sibling, patches)
    first, second = masks(shards), masks(sibling)
    a, b = (np.stack([result[key] for key in sorted(first)]) for result in (first, second))
    assert (figures["samples"], figures["only_first"], figures["only_second"]) == (len(first), 0, 0)
    assert figures["other_faces"] == 0
    assert figures["pixel_agreement"] == pytest.approx(np.mean(a == b))
    for number, name in enumerate(CLASSES):
        both, either = np.sum((a == number) & (b == number)), np.sum((a == number) | (b == number))
        result = figures["classes"][name]
        assert (result["pixels"], result["pixels_other"]) == (np.sum(a == number), np.sum(b == number))
        assert result["iou"] == (pytest.approx(both / either) if either else None)
        assert result["f1"] == (pytest.approx(2 * both / (both + either)) if either else None)
    one, two = (
        dominant_classes(merge_cells(torch.from_numpy(np.stack(cells).astype(np.int64)), patches), TOP)
        for cells in ([cell_class_counts(mask, 12) for mask in stack] for stack in (a, b))
    )
    assert figures["same_top_parts"] == pytest.approx((one == two).all(dim=-1).double().mean().item())
    assert figures["shared_top_parts"] == pytest.approx(((one & two).sum() / (one | two).sum()).item())


def test_a_set_is_compared_with_itself_with_fewer_faces_with_none_and_by_the_command(
    shards, sibling, cluster_config, tmp_path
):
    figures = compare(cluster_config, shards, shards)
    assert figures["pixel_agreement"] == figures["mean_f1_of_parts"] == figures["same_top_parts"] == 1
    with pytest.raises(UserError, match="whole cells"):
        compare(cluster_config, shards, sibling, 5)
    other, output = Layout.at(tmp_path / "other"), tmp_path / "agreement.json"
    listed = manifest.read(sibling.samples)
    with pytest.raises(UserError, match="no finished shards"):
        compare(cluster_config, shards, other)
    shutil.copytree(sibling.shards, other.shards, dirs_exist_ok=True)
    manifests.write_table(other.samples, listed.table.slice(2), listed.attributes, listed.metadata)
    flags = ("--shards", shards.shards, "--other", other.shards, "--output", output)
    finished = run_command("pipeline.verify", *flags, "--scheduler", cluster_config.cluster.scheduler)
    assert finished.returncode == 0, finished.stderr
    figures = json.loads(output.read_text())
    assert (figures["samples"], figures["only_first"], figures["only_second"]) == (PORTRAITS - 2, 2, 0)
    assert set(figures["classes"]) == set(CLASSES)
    assert f"{PORTRAITS - 2} samples in both sets" in finished.stdout
    assert f"{figures['pixel_agreement']:.2%}" in finished.stdout
    agreement = Agreement(1, TOP)
    assert verify(cluster_config.cluster, other, shards, agreement).counts["members"] == 10
    assert (agreement.figures()["only_first"], agreement.figures()["only_second"]) == (0, 2)
    manifests.write_table(other.samples, listed.table.slice(0, 0), listed.attributes)
    figures = compare(cluster_config, shards, other)
    assert (figures["samples"], figures["pixel_agreement"]) == (0, None)
