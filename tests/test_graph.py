"""`dvc repro` sees every change of its input and of the networks that parsing reads."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from common import manifest
from common.config import load
from common.errors import UserError
from common.layout import DEFAULT_SHARDS, Layout
from pipeline.graph import networks, write_networks
from tests.commands import ROOT
from tests.dvc_project import configure, copy_project, dvc
from tests.listings import photo


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project with the stages up to the plan."""
    copy = tmp_path_factory.mktemp("project")
    copy_project(copy, ("common", "pipeline", "synthetic"), ("sample", "ingest"), [])
    return copy


def repro(project: Path, source: str | Path) -> str:
    """The output of DVC for an input."""
    configure(project, [f'data.input="{source}"', "data.name=photos", "sample.count=8"])
    return dvc(project, "repro", "ingest")


def write_input(folder: Path) -> Path:
    """Two photos and a table of labels."""
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (folder / name).write_bytes(photo(ord(name[0])))
    (folder / "labels.csv").write_text("path,Smiling\na.jpg,1\nb.jpg,0\n")
    return folder


def reasons(project: Path) -> dict[str, str | None]:
    rows = manifest.read(project / "manifests" / "source.parquet").rows()
    return {str(row["source"]): row["reason"] for row in rows}


def rewrite(file: Path, old: str, new: str) -> None:
    """Change text in a file, which keeps its size and its time."""
    status = file.stat()
    file.write_text(file.read_text().replace(old, new))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_size == status.st_size


def test_the_plan_follows_the_input_and_is_the_same_where_nothing_has_changed(project, tmp_path):
    folder, plan = write_input(tmp_path / "in"), project / "manifests" / "source.parquet"
    (folder / "labels.csv").write_text("path,Smiling\na.jpg,1\nb.jpg,0\nc.jpg,1\n")
    repro(project, folder)
    assert reasons(project)["c.jpg"] is not None
    before = plan.read_bytes()
    repro(project, folder)
    assert plan.read_bytes() == before
    (folder / "c.jpg").write_bytes(photo(1))
    rewrite(folder / "labels.csv", "a.jpg,1", "a.jpg,0")
    repro(project, folder)
    rows = {row["source"]: row for row in manifest.read(plan).rows()}
    assert (rows["c.jpg"]["reason"], rows["a.jpg"]["Smiling"]) == (None, 0)


def test_the_painted_sample_is_made_before_it_is_listed_and_for_no_other_input(project, tmp_path):
    repro(project, "sample")
    assert sum(reason is None for reason in reasons(project).values()) == 8
    repro(project, write_input(tmp_path / "in"))
    assert set(reasons(project)) == {"a.jpg", "b.jpg"}
    assert not any((project / "sample").iterdir())


def test_the_networks_that_parsing_reads_are_known_by_their_bytes(tmp_path):
    network, described = tmp_path / "lite0.onnx", tmp_path / "lite0.yaml"
    for path in (network, described):
        path.write_bytes(path.suffix.encode())
    config = load(
        settings=[f"parse.features_from=[dlib_face, {network}]", f"weights.parser={tmp_path / 'none.onnx'}"]
    )
    before = networks(config)
    assert before.keys() == {str(network), str(described), str(tmp_path / "none.onnx")}
    assert before[str(tmp_path / "none.onnx")] is None
    for changed in (network, described):
        rewrite(changed, ".", "-")
        after = networks(config)
        assert [name for name in after if after[name] != before[name]] == [str(changed)]
        before = after
    assert networks(load()) == {}


def test_the_parse_stage_depends_on_these_networks():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert "manifests/networks.json" in stages["ingest"]["outs"]
    assert "manifests/networks.json" in stages["parse"]["deps"]


@pytest.mark.parametrize("name", ["aligned", "manifests", "runs", "shards"])
def test_an_output_that_is_a_link_to_another_disk_is_refused_before_all_else(name, tmp_path, monkeypatch):
    for folder in ("disk", "project"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "project")
    Path(name).symlink_to(tmp_path / "disk")
    with pytest.raises(UserError, match=f"^{name} is a link to .*disk, and DVC accepts no output outside"):
        write_networks(load(), Layout.at(DEFAULT_SHARDS))
    assert list((tmp_path / "disk").iterdir()) == []


@pytest.mark.parametrize("target", ["demo", "study"])
def test_a_folder_that_is_no_repository_is_refused_before_anything_is_installed(target, tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    done = subprocess.run(["make", "-C", tmp_path, target], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f"error: {tmp_path} is no Git repository, which DVC needs: install Git" in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["Makefile"]
