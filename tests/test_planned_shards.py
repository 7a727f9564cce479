"""The driver's columns of a plan: the rows of each shard, in their order, without those of others."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from common import manifest
from pipeline.runner.planned_shards import read_planned
from tests import manifests

ROWS = 1000


def row(number: int) -> dict[str, Any]:
    if number % 100 == 0:
        return {"source": f"{number:04}.jpg", "reason": "empty", "detail": "the file has no bytes"}
    sha256 = f"{number:064x}"[::-1]
    return {
        "source": f"{number:04}.jpg",
        "shard": f"d/train-{number % 7:06}.tar",
        "split": ("train", "val")[number % 2],
        "sha256": sha256,
        "key": sha256[:16],
        "Male": (0, 1, None)[number % 3],
    }


def test_each_shard_has_its_rows_and_pickled_no_others(tmp_path: Path) -> None:
    path = tmp_path / "source.parquet"
    rows = [row(number) for number in range(ROWS)]
    manifests.write(path, manifest.SOURCE_FIELDS, rows, ("Male",), {"dataset": "d"})
    planned = read_planned(path, ["source", "sha256", "split", "Male"])
    assert (planned.sources, planned.metadata, planned.attributes) == (ROWS, {"dataset": "d"}, ("Male",))
    assert [refused["source"] for refused in planned.refusals()] == [
        row["source"] for row in rows if "reason" in row
    ]
    shards = dict(planned.shards)
    assert list(shards) == [f"d/train-{number:06}.tar" for number in range(7)]
    for name, own in shards.items():
        expected = [row for row in rows if row.get("shard") == name]
        assert [row | {"shard": name} for row in own] == expected
        assert own.values(["source", "Male"]) == [[row["source"], row["Male"]] for row in expected]
        order = np.random.default_rng(1).permutation(len(expected))
        pickled = pickle.dumps(own.shuffled(1))
        assert [row["key"] for row in pickle.loads(pickled)] == [expected[index]["key"] for index in order]
        assert len(pickled) < len(pickle.dumps(expected))
