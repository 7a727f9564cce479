"""Sibling sets of the same aligned faces, and where two sets agree."""

import json
import shutil
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from common import manifest
from common.cell_counts import cell_class_counts
from common.classes import CLASSES
from common.config import Config
from common.errors import UserError
from common.layout import Layout
from common.members import decode_mask
from common.shards import read_shard
from pipeline.parse.run import make_sibling
from pipeline.verify.agreement import Agreement
from pipeline.verify.run import verify
from tests import manifests
from tests.commands import run_command

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
    sets = [
        (top(one), top(two))
        for pair in zip(a, b, strict=True)
        for one, two in zip(*(patch_counts(mask, patches) for mask in pair), strict=True)
    ]
    assert figures["same_top_parts"] == pytest.approx(np.mean([one == two for one, two in sets]))
    shared = sum(len(one & two) for one, two in sets) / sum(len(one | two) for one, two in sets)
    assert figures["shared_top_parts"] == pytest.approx(shared)


def patch_counts(mask: np.ndarray, patches: int) -> np.ndarray:
    """Pixels per class in each patch, as sums of stored cells."""
    cells = cell_class_counts(mask, 12).astype(int)
    return cells.reshape(patches, 12 // patches, patches, 12 // patches, 19).sum(axis=(1, 3)).reshape(-1, 19)


def top(counts: np.ndarray) -> set[int]:
    largest = sorted(range(19), key=lambda number: (-int(counts[number]), number))[:TOP]
    return {number for number in largest if counts[number]}


def test_keys_that_only_one_set_has_are_counted(shards, sibling, cluster_config, tmp_path):
    fewer = Layout.at(tmp_path)
    shutil.copytree(sibling.shards, fewer.shards, dirs_exist_ok=True)
    table = pq.read_table(fewer.samples)
    pq.write_table(table.slice(2), fewer.samples)
    figures, common = compare(cluster_config, shards, fewer), table.num_rows - 2
    assert (figures["samples"], figures["only_first"], figures["only_second"]) == (common, 2, 0)
    agreement = Agreement(1, TOP)
    assert verify(cluster_config.cluster, fewer, shards, agreement).counts["members"] == 10
    figures = agreement.figures()
    assert (figures["samples"], figures["only_first"], figures["only_second"]) == (common, 0, 2)
    assert "2 only in the other" in agreement.table()


def test_a_set_is_compared_with_itself_nothing_and_what_does_not_fit(
    shards, sibling, cluster_config, tmp_path
):
    figures = compare(cluster_config, shards, shards)
    assert figures["pixel_agreement"] == figures["mean_f1_of_parts"] == figures["same_top_parts"] == 1
    with pytest.raises(UserError, match="no finished shards"):
        compare(cluster_config, shards, Layout.at(tmp_path))
    listed = manifest.read(shards.samples)
    manifests.write_table(Layout.at(tmp_path).samples, listed.table.slice(0, 0), listed.attributes)
    figures = compare(cluster_config, shards, Layout.at(tmp_path))
    assert (figures["samples"], figures["pixel_agreement"]) == (0, None)
    with pytest.raises(UserError, match="whole cells"):
        compare(cluster_config, shards, sibling, 5)


def test_the_command_prints_tables_and_writes_json(shards, sibling, cluster_config, tmp_path):
    output = tmp_path / "agreement.json"
    flags = ("--shards", shards.shards, "--other", sibling.shards, "--output", output)
    finished = run_command("pipeline.verify", *flags, "--scheduler", cluster_config.cluster.scheduler)
    assert finished.returncode == 0, finished.stderr
    assert "24 samples in both sets" in finished.stdout
    figures = json.loads(output.read_text())
    assert set(figures["classes"]) == set(CLASSES)
    assert f"{figures['pixel_agreement']:.2%}" in finished.stdout
