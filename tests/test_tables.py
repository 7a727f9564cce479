"""Queries over Parquet files: the same bytes for any number of threads, at any path, or one sentence."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from common.errors import UserError
from common.storage import address
from common.tables import ROW_GROUP, add_parquet, batches, connect, quoted, write_parquet

ROWS = 3 * ROW_GROUP // 2
QUERY = f"SELECT i, sha256(i::VARCHAR) AS key FROM range({ROWS}) AS numbers(i) ORDER BY key"


def test_equal_rows_are_equal_bytes_for_any_number_of_threads(tmp_path: Path) -> None:
    for threads in (1, 4):
        with connect() as database:
            database.execute(f"SET threads = {threads}")
            file = tmp_path / f"{threads}.parquet"
            assert write_parquet(database, file, QUERY, metadata={"dataset": "d"}) == ROWS
            assert [batch.num_rows for batch in batches(database, QUERY)] == [ROW_GROUP, ROW_GROUP // 2]
    first, second = sorted(tmp_path.iterdir())
    assert first.read_bytes() == second.read_bytes()
    written = pq.ParquetFile(first)
    keys = written.read()["key"].to_pylist()
    assert keys == sorted(keys)
    assert written.metadata.row_group(0).num_rows == ROW_GROUP
    assert written.schema_arrow.metadata == {b"dataset": b"d"}


def test_an_error_in_a_query_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "table.parquet"
    with connect() as database:
        write_parquet(database, file, "SELECT 1 AS one")
        before = file.read_bytes()
        with pytest.raises(Exception, match="does not add up"):
            write_parquet(database, file, "SELECT error('does not add up') AS one FROM range(9)")
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("place", ["local", "memory"])
def test_files_of_any_name_are_queried_at_paths_and_addresses(place: str, tmp_path: Path) -> None:
    folder = tmp_path if place == "local" else address(f"memory://{tmp_path.name}")
    file, name = folder / "a [b] *'.parquet", quoted('a.b "c"')
    with connect() as database:
        write_parquet(database, file, 'SELECT 7 AS "a.b ""c"""', metadata={"x": "y"})
        assert add_parquet(database, "stored", file).metadata == {b"x": b"y"}
        assert database.execute(f"SELECT {name} FROM stored").fetchall() == [(7,)]
        with pytest.raises(FileNotFoundError):
            add_parquet(database, "other", folder / "none.parquet")


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "table.parquet"
    file.write_bytes(b"PAR1 and more")
    with connect() as database, pytest.raises(UserError, match="no readable Parquet file"):
        add_parquet(database, "damaged", file)
