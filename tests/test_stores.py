"""Photos in tars, and inputs at an S3 server."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from common.errors import UserError
from common.input_files import FileTree
from common.photo import Refused
from common.storage import Address, address
from pipeline.source import read_source
from tests.listings import by_path, fill, labels, photo, planned, read_listing, write_tar

# WebDataset


def metadata(**values: object) -> bytes:
    return json.dumps(values).encode()


def test_webdataset_members_become_sources_with_their_json_and_class(tmp_path):
    known = metadata(attributes={"Male": 1, "Young": 0}, identity=7)
    first = {"a.jpg": photo(0), "a.json": known, "a.mask.png": photo(8), "a.pkl": b"never read"}
    second = {"x/b.PNG": photo(1), "x/b.cls": b"3", "c.webp": photo(2), "c.cls": b"0\n", "d.v1.jpeg": photo()}
    write_tar(tmp_path / "train-000.tar", first)
    write_tar(tmp_path / "more.tar", second)
    (tmp_path / "notes.txt").write_text("not a sample")
    found = labels(tmp_path)
    assert found.pop("train-000.tar::a.jpg") == {"Male": 1, "Young": 0, "class_0": None, "class_3": None}
    assert found.pop("more.tar::x/b.PNG") == {"Male": None, "Young": None, "class_0": 0, "class_3": 1}
    assert found.pop("more.tar::d.v1.jpeg") is None
    assert found.keys() == {"more.tar::c.webp"}
    one = by_path(tmp_path)["train-000.tar::a.jpg"]
    assert (one.split, one.identity) == ("train", "7")
    assert read_source(tmp_path, "more.tar::x/b.PNG") == photo(1)
    with pytest.raises(Refused, match="has no such member"):
        read_source(tmp_path, "more.tar::zzz.jpg")
    members = {f"more.tar::{name}" for name in second if not name.endswith(".cls")}
    assert set(by_path(tmp_path / "more.tar")) == members
    write_tar(tmp_path / "more.tar", {"first.jpg": photo(1) * 9, "x/b.PNG": photo(2)})
    assert read_source(tmp_path, "more.tar::x/b.PNG") == photo(2)  # of a tar that was replaced


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE, pax: dict[str, str] | None = None) -> bytes:
    """A tar's header, which may say any size."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.type, entry.pax_headers = size, kind, pax or {}
    return entry.tobuf(tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT)


JSON = b'{"attributes": {"Male": 1}}'
SPARSE = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": "0,1"}


@pytest.mark.parametrize(
    ("entry", "refused"),
    [
        (header("b.png", 1 << 60), {"b.png": "truncated", "": "truncated"}),
        (header("b.json", 1 << 60), {"b.json": "bad-label", "": "truncated"}),
        (header("b.png", 1 << 60, tarfile.GNUTYPE_LONGNAME), {"": "truncated"}),
        (header("b.png", 0, pax={"size": "-512"}), {"": "truncated"}),
        (header("b.png", 0, pax={**SPARSE, "GNU.sparse.size": str(1 << 40)}), {"b.png": "not-a-file"}),
        (header("a.json", 0, pax={**SPARSE, "GNU.sparse.size": "2000000"}), {"a.png": "not-a-file"}),
        (header("a.json", 0, pax={**SPARSE, "GNU.sparse.map": "0,x"}), {"": "truncated"}),
        (header("a.json", 512) + b"{".ljust(512), {"a.png": "bad-label"}),
        (header("a.json", 65_537) + JSON.ljust(66_048), {"a.png": "bad-label"}),
        (header("lone.json", 512) + b"[".ljust(512), {"lone.json": "bad-label"}),
        (header("a.json", 512) + JSON.ljust(512), {}),
    ],
    ids=[
        *("a photo of 2^60 bytes", "a JSON of 2^60 bytes", "a name of 2^60 bytes", "a negative size"),
        *("a sparse photo of 1 TB", "a sparse JSON of 2 MB", "a damaged map of holes", "no JSON"),
        *("a JSON above 64 kB", "no JSON and no photo", "a good one"),
    ],
)
def test_a_bad_member_of_a_tar_is_one_row_and_ends_nothing(tmp_path, entry, refused):
    (tmp_path / "in").mkdir()
    tar = write_tar(tmp_path / "in" / "x.tar", {"a.png": photo(1), "c.png": photo(2)})
    size = sum(512 + -(-len(photo(seed)) // 512) * 512 for seed in (1, 2))
    tar.write_bytes(tar.read_bytes()[:size] + entry + bytes(1024))
    (tmp_path / "in" / "junk.tar").write_bytes(b"no tar at all" * 99)
    rows = {row["source"]: row["reason"] for row in planned(tmp_path / "in", tmp_path / "out")}
    assert rows.pop("junk.tar") == "truncated"
    expected = {f"x.tar::{name}" if name else "x.tar": reason for name, reason in refused.items()}
    assert rows == {"x.tar::a.png": None, "x.tar::c.png": None, **expected}


def test_labels_of_tars_are_bounded_in_number(tmp_path):
    members = {"a.jpg": b"", "a.json": metadata(attributes={f"l{number}": 1 for number in range(4097)})}
    write_tar(tmp_path / "a.tar", members)
    with pytest.raises(UserError, match="4,097 different labels in .json members"):
        read_listing(tmp_path)


# S3


@pytest.fixture(scope="module")
def bucket(object_store):
    """An empty bucket of the object store."""
    place = address("s3://photos")
    place.fs.mkdir("photos")
    return place


def upload(folder: Path, bucket: Address, under: str) -> str:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            bucket.fs.put_file(str(path), f"photos/{under}/{path.relative_to(folder).as_posix()}")
    return f"s3://photos/{under}"


def test_any_name_tables_and_tars_are_read_from_an_s3_server(bucket, tmp_path):
    names = ["a b #1?.jpg", "deep/имя 🙂.png", "%41.jpg"]
    root = fill(tmp_path / "in", [*names, ".hidden.jpg"])
    rows = planned(upload(root, bucket, "names"), tmp_path / "a")
    assert {row["source"]: row["sha256"] for row in rows} == {
        row["source"]: row["sha256"] for row in planned(root, tmp_path / "b")
    }
    assert sorted(str(row["source"]) for row in rows) == sorted(names)
    write_tar(tmp_path / "x.tar", {"a.jpg": photo(0), "b.jpg": photo(1), "b.cls": b"1"})
    bucket.fs.put_file(str(tmp_path / "x.tar"), "photos/tars/x.tar")
    for form in ("s3://photos/tars", "s3://photos/tars/x.tar"):
        classes = {row["source"]: row["class_1"] for row in planned(form, tmp_path / "c")}
        assert classes == {"x.tar::a.jpg": None, "x.tar::b.jpg": 1}
    assert read_source(bucket / "tars", "x.tar::b.jpg") == photo(1)
    (tmp_path / "t.csv").write_text("path,Male\na.jpg,1\ngone.jpg,0\n../secret.jpg,0\n")
    bucket.fs.put_file(str(tmp_path / "t.csv"), "photos/table/t.csv")
    bucket.fs.pipe_file("photos/table/a.jpg", photo(0))
    reasons = {row["source"]: row["reason"] for row in planned("s3://photos/table/t.csv", tmp_path / "d")}
    assert reasons == {"a.jpg": None, "gone.jpg": "label-without-image", "../secret.jpg": "path-outside"}


@pytest.mark.parametrize("store", [pytest.param("local", id="a folder"), pytest.param("s3", id="S3")])
def test_only_a_file_that_changes_gets_another_stamp(store, bucket, tmp_path):
    root = fill(tmp_path / "in", ["a.jpg", "deep/b.jpg"])
    paths = ["a.jpg", "deep/b.jpg", "gone.jpg"]

    def stamps() -> list[str | None]:
        return FileTree(address(upload(root, bucket, "stamps") if store == "s3" else root)).stamps(paths)

    before = stamps()
    assert stamps() == before
    assert [stamp is None for stamp in before] == [False, False, True]
    (root / "a.jpg").write_bytes(bytes(reversed((root / "a.jpg").read_bytes())))
    assert [new == old for new, old in zip(stamps(), before, strict=True)] == [False, True, True]


def test_an_s3_folder_that_is_not_there_or_a_server_that_does_not_answer_is_one_line(bucket, tmp_path):
    with pytest.raises(UserError, match="s3://photos/none is not a folder"):
        read_listing(address("s3://photos/none"))
    environment = {**os.environ, "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    command = [sys.executable, "-m", "pipeline.ingest", "--input", "s3://photos/x", "--output", str(tmp_path)]
    command += ["--set", "stream.retry_minutes=0"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert done.stderr.startswith("error: s3://photos/x: Could not connect")
