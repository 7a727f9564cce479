"""Sibling sets of the same aligned faces, and where two sets agree."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from distributed import LocalCluster

from common.cell_counts import cell_class_counts
from common.classes import CLASSES
from common.config import Config, load
from common.errors import UserError
from common.layout import Layout
from common.shards import decode_mask, read_shard
from pipeline.align.run import align
from pipeline.ingest.run import ingest
from pipeline.parse.run import parse
from pipeline.parse.sibling import make_sibling
from pipeline.verify.agreement import Agreement
from pipeline.verify.run import verify
from synthetic import write_dataset
from tests.commands import run_command
from training.data.loader import load as load_batches
from training.data.sampler import sequential_batches
from training.data.samples import read_samples

TOP = 9
FACES = 6


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A Dask scheduler with a worker process."""
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster.scheduler_address


@pytest.fixture(scope="module")
def config(address: str, tmp_path_factory: pytest.TempPathFactory) -> Config:
    return load(
        settings=[
            f"data.input={tmp_path_factory.mktemp('input')}/faces",
            "data.name=faces",
            "ingest.shard_size=4",
            "parse.size=320",
            "parse.precision=float32",
            f"cluster.scheduler={address}",
        ]
    )


@pytest.fixture(scope="module")
def origin(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A finished set whose photos and their folder are gone."""
    layout = Layout.at(tmp_path_factory.mktemp("origin"))
    photos = Path(config.data.input)
    write_dataset(photos, count=FACES, seed=11, workers=1)
    ingest(config, layout)
    align(config, layout)
    parse(config, layout)
    shutil.rmtree(photos)
    return layout


@pytest.fixture(scope="module")
def sibling(origin: Layout, address: str, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """The same faces, parsed again at 256 pixels by the command."""
    output = tmp_path_factory.mktemp("sibling")
    flags = ("--from", origin.shards, "--output", output, "--scheduler", address)
    settings = ("--set", "parse.size=256", "--set", "parse.precision=float32")
    finished = run_command("pipeline.parse", *flags, *settings)
    assert finished.returncode == 0, finished.stderr
    return Layout.at(output)


def test_a_sibling_set_is_made_without_the_photos_and_is_whole(
    origin: Layout, sibling: Layout, config: Config
) -> None:
    assert not Path(config.data.input).exists()
    assert not sibling.aligned.exists()
    findings = verify(config.cluster, sibling)
    assert not findings, findings.table()
    first, second = (pq.read_table(layout.samples).to_pylist() for layout in (origin, sibling))
    assert [row["key"] for row in first] == [row["key"] for row in second]
    assert [row["jpg.crc32"] for row in first] == [row["jpg.crc32"] for row in second]
    assert [row["mask.png.crc32"] for row in first] != [row["mask.png.crc32"] for row in second]


def test_training_reads_a_sibling_set(sibling: Layout, config: Config) -> None:
    faces = read_samples(sibling, ("train", "val", "test", "unlabelled"))
    (batch,) = load_batches(
        faces,
        sequential_batches(faces, FACES),
        ("jpg", "mask.png", "parts.npy"),
        workers=0,
        stream=config.stream,
    )
    assert batch.images.shape == (FACES, 3, 256, 256)
    assert batch.masks.shape == (FACES, 256, 256)


def test_the_origin_is_not_changed_by_its_sibling(origin: Layout, sibling: Layout, config: Config) -> None:
    assert sibling.shards != origin.shards
    findings = verify(config.cluster, origin)
    assert not findings, findings.table()


def test_a_set_cannot_be_its_own_sibling(origin: Layout) -> None:
    with pytest.raises(UserError, match="--output"):
        make_sibling(origin, Layout.at(origin.shards))


def test_a_sibling_does_not_replace_another_data_set(origin: Layout, shards: Layout, tmp_path: Path) -> None:
    output = Layout.at(tmp_path)
    shutil.copytree(shards.manifests, output.manifests)
    with pytest.raises(UserError, match="holds the data set portraits"):
        make_sibling(origin, output)


def masks(layout: Layout) -> dict[str, np.ndarray]:
    return {
        key: decode_mask(members["mask.png"])
        for tar in sorted(layout.shards.glob("faces/*.tar"))
        for key, members in read_shard(tar)
    }


def compare(config: Config, first: Layout, second: Layout, patches: int = 1) -> dict[str, Any]:
    """The figures of two sets of which the first is whole."""
    agreement = Agreement(patches, TOP)
    findings = verify(config.cluster, first, second, agreement)
    assert not findings, findings.table()
    return agreement.figures()


@pytest.mark.parametrize("patches", [1, 3])
def test_two_sets_are_compared_pixel_by_pixel_and_patch_by_patch(
    patches: int, origin: Layout, sibling: Layout, config: Config
) -> None:
    figures = compare(config, origin, sibling, patches)
    first, second = masks(origin), masks(sibling)
    a, b = (np.stack([result[key] for key in sorted(first)]) for result in (first, second))
    assert (figures["samples"], figures["only_first"], figures["only_second"]) == (FACES, 0, 0)
    assert figures["other_faces"] == 0
    assert figures["pixel_agreement"] == pytest.approx(np.mean(a == b))
    for number, name in enumerate(CLASSES):
        both, either = np.sum((a == number) & (b == number)), np.sum((a == number) | (b == number))
        result = figures["classes"][name]
        assert (result["pixels"], result["pixels_other"]) == (np.sum(a == number), np.sum(b == number))
        assert result["iou"] == (pytest.approx(both / either) if either else None)
        assert result["f1"] == (pytest.approx(2 * both / (both + either)) if either else None)
    sets = [
        (top(one, config), top(two, config))
        for left, right in zip(a, b, strict=True)
        for one, two in zip(patch_counts(left, patches), patch_counts(right, patches), strict=True)
    ]
    assert len(sets) == FACES * patches**2
    assert figures["same_top_parts"] == pytest.approx(np.mean([one == two for one, two in sets]))
    shared, either = (
        sum(map(len, result)) for result in zip(*((x & y, x | y) for x, y in sets), strict=True)
    )
    assert figures["shared_top_parts"] == pytest.approx(shared / either)


def patch_counts(mask: np.ndarray, patches: int) -> np.ndarray:
    """Pixels per class in each patch; the edges are those of the stored grid's cells."""
    edges = np.arange(patches + 1) * (12 // patches) * 256 // 12
    squares = [
        mask[edges[i] : edges[i + 1], edges[j] : edges[j + 1]] for i in range(patches) for j in range(patches)
    ]
    return np.stack([np.bincount(square.ravel(), minlength=19) for square in squares])


def top(counts: np.ndarray, config: Config) -> set[int]:
    largest = sorted(range(19), key=lambda number: (-counts[number], number))[:TOP]
    return {number for number in largest if counts[number]}


def test_a_set_agrees_with_itself(origin: Layout, config: Config) -> None:
    figures = compare(config, origin, origin)
    assert figures["pixel_agreement"] == figures["mean_f1_of_parts"] == figures["same_top_parts"] == 1


def test_keys_that_only_one_set_has_are_counted(
    origin: Layout, sibling: Layout, config: Config, tmp_path: Path
) -> None:
    fewer = Layout.at(tmp_path)
    shutil.copytree(sibling.shards, fewer.shards, dirs_exist_ok=True)
    table = pq.read_table(fewer.samples)
    pq.write_table(table.slice(2), fewer.samples)
    figures = compare(config, origin, fewer)
    assert (figures["samples"], figures["only_first"], figures["only_second"]) == (FACES - 2, 2, 0)
    agreement = Agreement(1, TOP)
    assert verify(config.cluster, fewer, origin, agreement).counts["members"] == 8
    figures = agreement.figures()
    assert (figures["samples"], figures["only_first"], figures["only_second"]) == (FACES - 2, 0, 2)
    assert "2 only in the other" in agreement.table()


def test_sets_without_a_common_key_are_compared_to_nothing(
    origin: Layout, shards: Layout, config: Config
) -> None:
    figures = compare(config, origin, shards)
    assert (figures["samples"], figures["pixel_agreement"]) == (0, None)


def test_a_grid_that_is_not_made_of_whole_cells_and_a_missing_set_are_refused(
    origin: Layout, sibling: Layout, config: Config, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="whole cells"):
        compare(config, origin, sibling, 5)
    with pytest.raises(UserError, match="no finished shards"):
        compare(config, origin, Layout.at(tmp_path))


def test_the_command_prints_tables_and_writes_json(
    origin: Layout, sibling: Layout, address: str, tmp_path: Path
) -> None:
    output = tmp_path / "agreement.json"
    flags = ("--shards", origin.shards, "--other", sibling.shards, "--output", output)
    finished = run_command("pipeline.verify", *flags, "--scheduler", address)
    assert finished.returncode == 0, finished.stderr
    assert "6 samples in both sets" in finished.stdout
    figures = json.loads(output.read_text())
    assert set(figures["classes"]) == set(CLASSES)
    assert f"{figures['pixel_agreement']:.2%}" in finished.stdout


def test_a_mask_is_counted_in_the_edges_that_this_test_uses() -> None:
    mask = np.random.default_rng(0).integers(0, 19, (256, 256)).astype(np.uint8)
    assert np.array_equal(patch_counts(mask, 12).reshape(12, 12, 19), cell_class_counts(mask, 12))
