"""Plans, records and tables: what of a shard is known, and what makes it stale."""

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from upath import UPath

from common import manifest
from common.errors import UserError
from common.freshness import imported_modules
from common.layout import Layout
from common.sampling import evenly_spaced
from common.storage import Address, TransientError, address
from common.tables import ROW_GROUP, Database, add_parquet, batches, connect, quoted, write_batches
from pipeline.runner.finished_shards import FinishedShards
from pipeline.runner.planned_shards import read_planned
from pipeline.runner.shard_record import Refusals, ShardTask, read_record, record_path, write_record
from pipeline.runner.shard_runner import stale_tasks
from tests import manifests
from tests.faulty_store import proxied

SHARDS = 40


@pytest.fixture
def counted_store(object_store, monkeypatch):
    """The object store behind a proxy that counts requests."""
    with proxied(monkeypatch) as proxy:
        yield proxy


@pytest.mark.parametrize(
    ("fingerprint", "code", "any_code", "stale"),
    [
        ("inputs", "code", False, False),
        ("inputs", "older", False, True),
        ("inputs", "older", True, False),
        ("others", "code", False, True),
        ("others", "code", True, True),
    ],
)
def test_other_inputs_are_always_stale_and_other_code_unless_it_is_accepted(
    fingerprint, code, any_code, stale, tmp_path, capsys
):
    tar = tmp_path / "train-000000.tar"
    tar.write_bytes(b"tar")
    for record in ('{"fingerprint": "f", "samples": [], "quarantined": []}', "[]", "no JSON"):
        record_path(tar).write_text(record)
        assert read_record(tar) is None  # of another format
    write_record(ShardTask(tar, fingerprint, code, 1), [], [])
    task, finished = (
        ShardTask(tar, "inputs", "code", 1),
        FinishedShards(tmp_path, Layout.at(tmp_path), "parse"),
    )
    assert stale_tasks("parse", [task], finished, Refusals(1, 1.0), any_code) == ([task] if stale else [])
    notice = capsys.readouterr().out
    if fingerprint == "inputs" and code != "code":
        verdict = "kept" if any_code else "made again; --any-code keeps them"
        assert notice == f"parse: 1 shards that other code made are {verdict}\n"
    else:
        assert not notice


@pytest.mark.parametrize("module", ["pipeline.align.shard", "pipeline.parse.shard"])
def test_the_bytes_of_a_shard_depend_on_no_setting_of_the_trainer_and_not_on_the_runner(module):
    names = {path.as_posix() for path in imported_modules(module)}
    assert "common/shards.py" in names
    assert not names & {"common/config.py", "common/weights.py", "pipeline/runner/shard_runner.py"}
    # The int8 parser is calibrated on painted portraits, so the bytes of its masks depend on them.
    foreign = ("training/",) if module == "pipeline.parse.shard" else ("training/", "synthetic/")
    assert not any(name.startswith(foreign) for name in names)


def test_a_run_with_nothing_to_do_asks_a_store_a_few_times_whatever_the_number_of_shards(counted_store):
    root = UPath("s3://records")
    root.fs.mkdir("records")
    folder, layout = root / "aligned/d", Layout.at(root)
    tars = [folder / f"train-{number:06}.tar" for number in range(SHARDS)]
    for number, tar in enumerate(tars):
        tar.write_bytes(b"tar")
        write_record(ShardTask(tar, f"f{number}", "code", 1), [{"key": "k"}] * number, [])

    def requests(action: Callable[[], object]) -> int:
        before = counted_store.requests
        action()
        return counted_store.requests - before

    assert requests(lambda: [read_record(tar) for tar in tars]) >= 2 * SHARDS
    assert requests(lambda: FinishedShards(folder, layout, "align").update([])) >= SHARDS
    assert requests(lambda: FinishedShards(folder, layout, "align").update([])) <= 5
    write_record(ShardTask(tars[7], "other", "code", 1), [], [])
    assert requests(lambda: FinishedShards(folder, layout, "align")) <= 5
    finished = [shard for _, shard in sorted(FinishedShards(folder, layout, "align").shards.items())]
    assert [(shard.made_from["inputs"], shard.samples) for shard in finished] == [
        ("other", 0) if number == 7 else (f"f{number}", number) for number in range(SHARDS)
    ]
    tars[9].unlink()
    assert tars[9].name not in FinishedShards(folder, layout, "align").shards


PLANNED = 1000


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


def test_each_shard_has_its_rows_and_pickled_no_others(tmp_path):
    path = tmp_path / "source.parquet"
    rows = [row(number) for number in range(PLANNED)]
    manifests.write(path, manifest.SOURCE_FIELDS, rows, ("Male",), {"dataset": "d"})
    planned = read_planned(path, ["source", "sha256", "split", "Male"])
    assert (planned.sources, planned.metadata, planned.attributes) == (PLANNED, {"dataset": "d"}, ("Male",))
    assert planned.refused["source"].to_pylist() == [row["source"] for row in rows if "reason" in row]
    shards = dict(planned.shards)
    assert list(shards) == [f"d/train-{number:06}.tar" for number in range(7)]
    for name, own in shards.items():
        expected = [row for row in rows if row.get("shard") == name]
        assert [row | {"shard": name} for row in own] == expected
        order = np.random.default_rng(1).permutation(len(expected))
        pickled = pickle.dumps(own.shuffled(1))
        assert [row["key"] for row in pickle.loads(pickled)] == [expected[index]["key"] for index in order]
        assert len(pickled) < len(pickle.dumps(expected))


ROWS = 3 * ROW_GROUP // 2
QUERY = f"SELECT i, sha256(i::VARCHAR) AS key FROM range({ROWS}) AS numbers(i) ORDER BY key"


def write(database: Database, file: Address, query: str, metadata: dict[str, str]) -> int:
    rows = database.sql(query).to_arrow_reader(1000)
    return write_batches(file, rows, rows.schema, metadata)


def test_equal_rows_are_equal_bytes_for_any_number_of_threads(tmp_path):
    for threads in (1, 4):
        with connect() as database:
            database.execute(f"SET threads = {threads}")
            file = tmp_path / f"{threads}.parquet"
            assert write(database, file, QUERY, {"dataset": "d"}) == ROWS
            assert [batch.num_rows for batch in batches(database, QUERY)] == [ROW_GROUP, ROW_GROUP // 2]
    first, second = sorted(tmp_path.iterdir())
    assert first.read_bytes() == second.read_bytes()
    written = pq.ParquetFile(first)
    keys = written.read()["key"].to_pylist()
    assert keys == sorted(keys)
    assert written.metadata.row_group(0).num_rows == ROW_GROUP
    assert written.schema_arrow.metadata == {b"dataset": b"d"}


@pytest.mark.parametrize("place", ["local", "memory"])
def test_files_of_any_name_are_queried_at_paths_and_addresses_and_are_whole_or_refused(place, tmp_path):
    folder = tmp_path if place == "local" else address(f"memory://{tmp_path.name}")
    file, name = folder / "a [b] *'.parquet", quoted('a.b "c"')
    with connect() as database:
        write(database, file, 'SELECT 7 AS "a.b ""c"""', {"x": "y"})
        with pytest.raises(Exception, match="does not add up"):
            write(database, file, "SELECT error('does not add up') AS one FROM range(9)", {})
        assert [each.name for each in folder.iterdir()] == [file.name]
        assert add_parquet(database, "stored", file).metadata == {b"x": b"y"}
        assert database.execute(f"SELECT {name} FROM stored").fetchall() == [(7,)]
        with pytest.raises(FileNotFoundError):
            add_parquet(database, "other", folder / "none.parquet")
        file.write_bytes(b"PAR1 and more")
        error, message = (UserError, "Parquet file") if place == "local" else (TransientError, "table")
        with pytest.raises(error, match=f"no readable {message}"):
            add_parquet(database, "damaged", file)


@given(st.integers(1, 300), st.integers(0, 1000))
def test_positions_are_distinct_and_reach_from_end_to_end(count, total):
    positions = evenly_spaced(count, total)
    assert len(positions) == min(count, total)
    assert (np.diff(positions) > 0).all()
    if total and count > 1:
        assert (positions[0], positions[-1]) == (0, total - 1)
    if len(positions) > 1:
        assert np.ptp(np.diff(positions)) <= 1
