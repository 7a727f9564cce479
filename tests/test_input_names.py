"""Names of inputs, files, outputs and columns, which other tools or this project made."""

import os
from pathlib import Path

import pytest
from PIL import Image

from common.config import load
from common.errors import UserError
from common.input_files import list_files
from common.layout import MARKER, mark_output
from common.storage import address
from pipeline.command import arguments, read_options
from pipeline.graph import set_input
from pipeline.ingest.listing import Listing, Source
from pipeline.runner.shard_record import ShardTask, write_record
from tests.listings import fill, photo, plan_rows, planned, read_listing, tar
from tests.test_label_recognition import CELEBA, images, labelled, write


def test_a_folder_whose_name_is_not_utf8_is_refused_in_one_sentence(tmp_path):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff")
    Path(folder).mkdir()
    flags = arguments("", "pipeline.ingest").parse_args(["--input", folder])
    for read in (lambda: read_options(flags), lambda: set_input(folder)):
        with pytest.raises(UserError, match=r"--input .*bad\\xff: the name is not UTF-8; rename it"):
            read()


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        pytest.param(f"blobs/{'0af9' * 16}", None, id="Hugging Face's cache"),
        pytest.param(f"blobs/{'0af9' * 10}", None, id="Hugging Face's cache, by Git's hash"),
        pytest.param(f".dvc/cache/files/md5/ab/{'0af9' * 7}0a", None, id="DVC's cache"),
        pytest.param("elsewhere/secret.jpg", "link-outside", id="any other file is refused"),
    ],
)
def test_files_that_are_links_into_a_cache_are_read(tmp_path, target, reason):
    file, root = tmp_path / target, tmp_path / "snapshots" / "main"
    file.parent.mkdir(parents=True)
    root.mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(file, "JPEG")
    (root / "1.jpg").symlink_to(os.path.relpath(file, root))
    (listed,) = list_files(root)
    assert (listed.refused or (None,))[0] == reason


def sources(root: Path, output: Path) -> list[str]:
    """The sources of a plan."""
    return [str(row["source"]) for row in planned(root, output)]


def write_shard(output: Path) -> None:
    """What the stages leave in an output."""
    folder = output / "d"
    mark_output(folder)
    tar = folder / "unlabelled-000000.tar"
    tar.write_bytes(bytes(1024))
    write_record(ShardTask(tar, "inputs", "code", 1), [{"key": "k"}], [])


@pytest.mark.parametrize("name", ["out", ".", "deep/out"], ids=["below it", "the input itself", "deep in it"])
@pytest.mark.parametrize("again", [True, False], ids=["the same output", "another output"])
def test_an_output_inside_the_input_is_no_source(tmp_path, name, again, capsys):
    root = fill(tmp_path / "in", ["a.png"])
    output = root / name
    assert sources(root, output) == ["a.png"]
    write_shard(output)
    assert sources(root, output if again else tmp_path / "other") == ["a.png"]
    assert "2 files are no photos: this project's output (2)" in capsys.readouterr().out


def test_an_output_inside_a_remote_input_is_no_source(tmp_path):
    root = address(f"memory://{tmp_path.name}")
    for name in ("a.png", "out/manifests/source.parquet", f"out/manifests/{MARKER}"):
        root.joinpath(name).parent.mkdir(parents=True, exist_ok=True)
        root.joinpath(name).write_bytes(b"x")
    assert [file.path for file in list_files(root) if not file.refused] == ["a.png"]


def test_another_input_of_the_same_name_is_refused_and_the_same_one_elsewhere_is_not(tmp_path):
    output = tmp_path / "out"
    one = fill(tmp_path / "one" / "photos", ["1.png"])
    two = tmp_path / "two" / "photos"
    two.mkdir(parents=True)
    (two / "1.png").write_bytes(photo(1))
    sources(one, output)
    write_shard(output)
    with pytest.raises(UserError, match=r"made from .*one/photos, are not in the input .*two/photos"):
        sources(two, output)
    (tmp_path / "three").mkdir()
    one.rename(tmp_path / "three" / "photos")
    assert sources(tmp_path / "three" / "photos", output) == ["1.png"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        *(((name,), "a label cannot be named") for name in ("score", "Left", "source", "Key", "BYTES")),
        *(((name,), "a label cannot be named") for name in ("Pooled.npy.offset", "Big\nNose", "")),
        (("Male", "Young", "male"), "two labels are named 'male'"),
        *(((name,), "looks like splits") for name in ("split", "is_train", "Fold", "isTest", "val_split")),
    ],
    ids=str,
)
def test_labels_named_like_other_columns_or_like_splits_are_refused_by_name(names, message):
    listing = Listing([Source("a.jpg", attributes=(1,) * len(names))], names, aligned=False)
    with pytest.raises(UserError, match=message):
        plan_rows(listing, ["0" * 64], load().ingest)


def test_a_label_named_number_does_not_order_the_manifest():
    sources = [Source(f"{number}.jpg", attributes=(1 - number % 2,)) for number in range(4)]
    hashes = [f"{number:016x}{0:048}" for number in range(4)]
    rows = plan_rows(Listing(sources, ("number",), False), hashes, load().ingest)
    assert [row["source"] for row in rows] == [source.path for source in sources]


@pytest.mark.parametrize(
    ("rows", "splits"),
    [
        ("path,partition,Male\n1.jpg,0,1\n2.jpg,2,0\n", ["train", "test"]),
        ("path,Set,Male\n1.jpg,Training,1\n2.jpg,valid,0\n", ["train", "val"]),
        ("path,fold,Male\n1.jpg,test,1\n2.jpg,,0\n", ["test", None]),
        ("path,partition,Male\n1.jpg,0,1\n2.jpg,1,0\n", "the column partition has no 2"),
        ("path,fold,Male\n1.jpg,0,1\n2.jpg,1,0\n", "line 2, fold: '0' is none of train"),
        ("path,set,split,Male\n1.jpg,a,train,1\n", "the columns set and split are all named like splits"),
    ],
    ids=["celeba's numbers", "words", "a fold of words", "0 and 1 alone", "numbers of folds", "two columns"],
)
def test_columns_that_look_like_splits_are_read_or_refused(tmp_path, rows, splits):
    write(tmp_path, {**images(), "labels.csv": rows})
    if isinstance(splits, str):
        with pytest.raises(UserError, match=splits):
            read_listing(tmp_path)
    else:
        listing = read_listing(tmp_path)
        assert ([source.split for source in listing.sources], listing.attributes) == (splits, ("Male",))


@pytest.mark.parametrize(
    "files",
    [
        {"train.csv": "path,identity\n1.jpg,11\n", "test.csv": "path,identity\n2.jpg,11.0\n"},
        {"a.tar": tar([*labelled("1", 0, identity=11), *labelled("2", 1, identity="11.0")])},
        {"identity_CelebA.csv": "image_id,identity\n1.jpg,11\n2.jpg,11.00\n", "list_attr_celeba.txt": CELEBA},
    ],
    ids=["tables", "a tar", "celeba"],
)
def test_identities_that_are_one_number_are_one_person(tmp_path, files):
    write(tmp_path, files if "a.tar" in files else {**images(), **files})
    assert [source.identity for source in read_listing(tmp_path).sources] == ["11", "11"]
