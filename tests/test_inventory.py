"""`dvc repro` ingests again after any change of its input, only then, and accepts what ingest accepts."""

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image

from common import manifest
from common.config import load
from common.errors import UserError
from common.layout import DEFAULT_SHARDS, Layout
from common.storage import Address, address
from pipeline.inventory import inventory, networks, take_inventory
from tests.dvc_project import configure, copy_project, dvc

ROOT = Path(__file__).resolve().parent.parent
INGESTED = "Running stage 'ingest'"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the stages up to the plan."""
    copy = tmp_path_factory.mktemp("project")
    copy_project(copy, ("common", "pipeline", "synthetic"), ("sample", "inventory", "ingest"), [])
    return copy


def repro(project: Path, source: str | Address) -> str:
    """The output of DVC for an input."""
    configure(project, [f'data.input="{source}"', "data.name=photos", "sample.count=8"])
    return dvc(project, "repro", "ingest")


def jpeg(seed: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (64, 64), (seed, 0, 255 - seed)).save(data, "JPEG")
    return data.getvalue()


def write_input(folder: Path) -> Path:
    """Two photos and a table of labels."""
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (folder / name).write_bytes(jpeg(ord(name[0])))
    (folder / "labels.csv").write_text("path,Smiling\na.jpg,1\nb.jpg,0\n")
    return folder


def write_tar(path: Path) -> Path:
    with tarfile.open(path, "w") as tar:
        for name in ("a.jpg", "b.jpg"):
            entry = tarfile.TarInfo(name)
            entry.size = len(data := jpeg(ord(name[0])))
            tar.addfile(entry, io.BytesIO(data))
    return path


def reasons(project: Path) -> dict[str, str | None]:
    rows = manifest.read(project / "manifests" / "source.parquet").rows()
    return {str(row["source"]): row["reason"] for row in rows}


def rewrite(file: Path, old: str, new: str) -> None:
    """Change text in a file, which keeps its size and its time."""
    status = file.stat()
    file.write_text(file.read_text().replace(old, new))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_size == status.st_size


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda folder: None, True),
        (lambda folder: (folder.parent / "beside.jpg").write_bytes(jpeg(1)), True),
        (lambda folder: (folder / "c.jpg").write_bytes(jpeg(1)), False),
        (lambda folder: (folder / "b.jpg").unlink(), False),
        (lambda folder: (folder / "b.jpg").rename(folder / "c.jpg"), False),
        (lambda folder: os.utime(folder / "b.jpg", ns=(0, 1)), False),
        (lambda folder: (folder / "b.jpg").chmod(0o600), False),
        (lambda folder: (folder / "link.jpg").symlink_to("nowhere.jpg"), False),
        (lambda folder: rewrite(folder / "labels.csv", "a.jpg,1", "a.jpg,0"), False),
        (lambda folder: rewrite(folder.parent / "more.csv", "a.jpg,1", "a.jpg,0"), False),
    ],
    ids=[
        "nothing has changed",
        "a photo beside the input",
        "one photo more",
        "one photo less",
        "a photo of another name",
        "a photo of another time",
        "a photo with other permissions",
        "a broken link more",
        "another label, in a table of the same size and time",
        "another label in the table of ingest.labels outside the input",
    ],
)
def test_an_inventory_changes_with_the_input(
    tmp_path: Path, change: Callable[[Path], None], same: bool
) -> None:
    folder, labels = write_input(tmp_path / "in"), tmp_path / "more.csv"
    labels.write_text("path,Young\na.jpg,1\n")
    before = take_inventory(folder, labels)
    change(folder)
    assert (take_inventory(folder, labels) == before) == same


def test_the_inventory_of_a_tar_is_its_own_whatever_lies_beside_it(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "photos.tar")
    before = take_inventory(tar)
    (tmp_path / "other.jpg").write_bytes(jpeg(1))
    assert take_inventory(tar) == before
    os.utime(tar, ns=(0, 1))
    assert take_inventory(tar) != before


def test_dvc_ingests_again_if_the_input_has_changed(project: Path, tmp_path: Path) -> None:
    folder = write_input(tmp_path / "in")
    assert INGESTED in repro(project, folder)
    assert INGESTED not in repro(project, folder)
    (folder / "c.jpg").write_bytes(jpeg(1))
    assert INGESTED in repro(project, folder)
    rewrite(folder / "labels.csv", "a.jpg,1", "a.jpg,0")
    assert INGESTED in repro(project, folder)
    assert INGESTED not in repro(project, folder)


def test_dvc_accepts_what_ingest_quarantines(project: Path, tmp_path: Path) -> None:
    folder = write_input(tmp_path / "in")
    (folder / "labels.csv").unlink()
    (folder / "link.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(folder / "pipe.jpg")
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.jpg")).write_bytes(jpeg(1))
    repro(project, folder)
    assert reasons(project) == {
        "a.jpg": None,
        "b.jpg": None,
        "caf\\xe9.jpg": "bad-name",
        "link.jpg": "unreadable",
        "pipe.jpg": "not-a-file",
    }


def test_the_painted_sample_is_made_before_it_is_listed_and_for_no_other_input(
    project: Path, tmp_path: Path
) -> None:
    repro(project, "sample")
    assert sum(reason is None for reason in reasons(project).values()) == 8
    repro(project, write_input(tmp_path / "in"))
    assert set(reasons(project)) == {"a.jpg", "b.jpg"}
    assert not any((project / "sample").iterdir())


def test_dvc_ingests_a_tar(project: Path, tmp_path: Path) -> None:
    repro(project, write_tar(tmp_path / "photos.tar"))
    assert set(reasons(project)) == {"photos.tar::a.jpg", "photos.tar::b.jpg"}


def test_dvc_ingests_an_input_at_an_s3_server_whose_entity_tags_are_its_state(
    project: Path, tmp_path: Path, object_store: None
) -> None:
    bucket = address("s3://inventory")
    bucket.fs.mkdir("inventory")
    for file in write_input(tmp_path / "in").iterdir():
        bucket.fs.put_file(str(file), f"inventory/faces/{file.name}")
    before = take_inventory(bucket / "faces")
    assert INGESTED in repro(project, bucket / "faces")
    assert reasons(project) == {"a.jpg": None, "b.jpg": None}
    assert take_inventory(bucket / "faces") == before
    bucket.fs.pipe_file("inventory/faces/b.jpg", jpeg(ord("b")).replace(b"JFIF", b"JFIG"))
    assert take_inventory(bucket / "faces") != before


def test_the_inventory_names_the_networks_that_parsing_reads_by_their_bytes(tmp_path: Path) -> None:
    network, described = tmp_path / "lite0.onnx", tmp_path / "lite0.yaml"
    for path in (network, described):
        path.write_bytes(path.suffix.encode())
    config = load(settings=[f"parse.features_from={network}", f"weights.parser={tmp_path / 'none.onnx'}"])
    before = networks(config)
    assert before.keys() == {str(network), str(described), str(tmp_path / "none.onnx")}
    assert before[str(tmp_path / "none.onnx")] is None
    for changed in (network, described):
        rewrite(changed, ".", "-")
        after = networks(config)
        assert [name for name in after if after[name] != before[name]] == [str(changed)]
        before = after
    assert networks(load()) == {}


def test_the_parse_stage_depends_on_the_networks_that_the_inventory_names() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert "manifests/networks.json" in stages["inventory"]["outs"]
    assert "manifests/networks.json" in stages["parse"]["deps"]


@pytest.mark.parametrize("name", ["aligned", "manifests", "runs", "shards"])
def test_an_output_that_is_a_link_to_another_disk_is_refused_before_anything_is_made(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("disk", "project"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "project")
    Path(name).symlink_to(tmp_path / "disk")
    settings = [f"data.input={write_input(tmp_path / 'in')}", "data.name=photos"]
    with pytest.raises(UserError, match=f"^{name} is a link to .*disk, and DVC accepts no output outside"):
        inventory(load(settings=settings), Layout.at(DEFAULT_SHARDS))
    assert list((tmp_path / "disk").iterdir()) == []


@pytest.mark.parametrize("target", ["demo", "study"])
def test_a_folder_that_is_no_repository_is_refused_before_anything_is_installed(
    target: str, tmp_path: Path
) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    done = subprocess.run(["make", "-C", tmp_path, target], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f"error: {tmp_path} is no Git repository, which DVC needs: install Git" in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["Makefile"]
