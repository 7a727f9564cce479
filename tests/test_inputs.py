"""What people feed in: files, folders, links and label files, and their names, which others made."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from common.config import PARAMS, load
from common.errors import UserError
from common.input_files import list_files
from common.layout import MARKER, mark_output
from common.shards import check_key
from common.storage import address
from pipeline.command import arguments, read_options
from pipeline.graph import set_input
from pipeline.ingest.listing import Listing, Source
from pipeline.runner.shard_record import ShardTask, write_record
from tests.listings import fill, photo, plan_rows, planned, read_listing, tar
from tests.test_label_recognition import CELEBA, images, labelled, write


def celeba(
    root: Path,
    rows: str = "2\nMale Young\n1.jpg -1 1\n2.jpg 1 1\n",
    images: tuple[str, ...] = ("1.jpg", "2.jpg"),
) -> Path:
    fill(root, [f"img_align_celeba/{name}" for name in images])
    (root / "list_attr_celeba.txt").write_text(rows)
    return root


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("list_attr_celeba", "2\nMale Young\n1.jpg -1 1 1\n", "line 3: 3 labels for 2 attributes"),
        ("list_attr_celeba", "2\nMale Young\n1.jpg -1 1\n\n2.jpg -1 2\n", "line 5: '2' is none of"),
        ("list_attr_celeba", "2\nMale Young\n1.jpg -1 1\n1.jpg -1 1\n", "line 4: a second row for 1.jpg"),
        ("list_attr_celeba", "Male Young\n1.jpg -1 1\n", "line 1: the number of images"),
        ("list_attr_celeba", "2\nMale Male\n1.jpg -1 1\n", "line 2: attribute names"),
        ("list_eval_partition", "1.jpg 0\n2.jpg 3\n", "line 2: '3' is none of 0, 1, 2"),
    ],
)
def test_a_malformed_label_file_is_refused_by_file_and_line(tmp_path, file, text, message):
    (celeba(tmp_path) / f"{file}.txt").write_text(text)
    with pytest.raises(UserError, match=f"{file}.txt, {message}"):
        read_listing(tmp_path)


def test_a_folder_is_read_recursively_without_hidden_files_and_links_are_judged_by_where_they_lead(tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        read_listing(root := tmp_path / "in")
    root.mkdir()
    with pytest.raises(UserError, match="holds no files"):
        read_listing(root)
    fill(root, ["real/a.jpg", "real/er/b c.ünï.png", ".hidden.jpg"])
    fill(tmp_path, ["secret.jpg", "away/b.jpg"])
    links = {"same.jpg": "real/a.jpg", "round.jpg": "trip.jpg", "trip.jpg": "round.jpg", "gone.jpg": "no"}
    links |= {"loop": ".", "other": "real", "real/up": "..", "away": "../away", "out.jpg": "../secret.jpg"}
    for name, target in links.items():
        (root / name).symlink_to(target)
    os.mkfifo(root / "pipe.jpg")
    os.close(os.open(os.fsencode(root) + b"/bad\xff.jpg", os.O_CREAT))
    with (root / "film.jpg").open("wb") as stream:
        stream.truncate(1 << 40)
    rows = {row["source"]: row["reason"] for row in planned(root, tmp_path / "out")}
    loops = dict.fromkeys(("round.jpg", "trip.jpg", "loop", "real/up"), "link-loop")
    outside = dict.fromkeys(("away", "out.jpg"), "link-outside")
    assert rows == {
        **{"real/a.jpg": None, "real/er/b c.ünï.png": None, "same.jpg": "duplicate"},
        **{"gone.jpg": "unreadable", "other": "link-folder", "pipe.jpg": "not-a-file"},
        **{"bad\\xff.jpg": "bad-name", "film.jpg": "too-large"},  # unread
        **loops,
        **outside,
    }
    root = celeba(tmp_path / "celeba")
    (root / "img_align_celeba").rename(tmp_path / "elsewhere")
    (root / "img_align_celeba").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="img_align_celeba is a symbolic link that leaves the input folder"):
        read_listing(root)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root reads everything, so as root the test goes on as nobody for a while."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_files_and_folders_without_permission_are_refused():
    with TemporaryDirectory() as name:
        base = Path(name)
        base.chmod(0o777)
        root = fill(base / "in", ["closed/a.jpg", "b.jpg", "c.jpg"])
        for path in (root / "b.jpg", root / "closed"):
            path.chmod(0)
        with unprivileged():
            rows = {row["source"]: row["reason"] for row in planned(root, base / "out")}
        (root / "closed").chmod(0o755)
    assert rows == {"b.jpg": "unreadable", "closed": "unreadable", "c.jpg": None}


def test_images_without_label_and_unknown_labels_are_kept_and_reported(tmp_path, capsys):
    images = ("1.jpg", "2.jpg", "3.jpg", "4.jpg")
    root = celeba(tmp_path / "in", "3\nMale Young\n1.jpg -1 1\n2.jpg 0 1\n3.jpg NaN NaN\n", images)
    rows = {Path(str(row["source"])).name: row["notices"] for row in planned(root, tmp_path / "out")}
    assert rows == {"1.jpg": None, "2.jpg": "unknown-label", "3.jpg": "unknown-label", "4.jpg": "no-label"}
    message = capsys.readouterr().out.split()
    assert (message[message.index("unknown-label") + 1], message[message.index("no-label") + 1]) == ("2", "1")
    (root / "list_attr_celeba.txt").unlink()
    rows = planned(root, tmp_path / "out", "ingest.format=folder")
    assert [row["notices"] for row in rows] == [None] * 4


def test_drawn_splits_keep_a_person_on_one_side_and_depend_on_the_seed_alone(tmp_path):
    names = tuple(f"{number}.jpg" for number in range(60))
    rows = "60\nMale\n" + "".join(f"{name} 1\n" for name in names)
    root = celeba(tmp_path / "in", rows, names)
    (root / "identity_CelebA.txt").write_text("".join(f"{name} {i // 3}\n" for i, name in enumerate(names)))
    first = planned(root, tmp_path / "a", "ingest.shard_size=7")
    assert first == planned(root, tmp_path / "b", "ingest.shard_size=7")
    pairs = {(row["identity"], row["split"]) for row in first}
    assert len(pairs) == len({identity for identity, _ in pairs})
    assert {split for _, split in pairs} == {"train", "val", "test"}
    assert max(Counter(row["shard"] for row in first).values()) == 7
    assert len(planned(root, tmp_path / "c", "ingest.limit=10")) == 10


def test_only_labelled_photos_are_drawn_and_a_person_takes_all_photos_along(tmp_path):
    names = tuple(f"{number}.jpg" for number in range(40))
    rows = "20\nMale\n" + "".join(f"{name} {(-1, 1, 0)[i % 3]}\n" for i, name in enumerate(names[:20]))
    root = celeba(tmp_path / "in", rows, names)
    (root / "identity_CelebA.txt").write_text("".join(f"{i}.jpg {i % 15}\n" for i in range(30)))
    drawn = planned(root, tmp_path / "out", "ingest.val_fraction=0.3", "ingest.test_fraction=0.3")
    labelled = {row["identity"]: row["split"] for row in drawn if row["Male"] is not None}
    assert set(labelled.values()) == {"train", "val", "test"}
    for row in drawn:
        assert row["split"] == labelled.get(row["identity"], "unlabelled")
    assert sum(row["split"] == "unlabelled" for row in drawn) >= 10


@given(st.text(max_size=140) | st.text("./\\\0 -_aZ09", max_size=12))
@settings(max_examples=200)
def test_a_key_is_refused_or_stays_where_it_is_put(key):
    try:
        check_key(key)
    except ValueError:
        return
    assert Path("folder", f"{key}.jpg").parts == ("folder", f"{key}.jpg")
    assert f"{key}.mask.png".split(".", 1) == [key, "mask.png"]


@given(
    st.lists(
        st.tuples(st.sampled_from([None, "train", "val", "test"]), st.none() | st.sampled_from("abcdefgh")),
        min_size=1,
        max_size=40,
    ),
    st.integers(0, 3),
    st.booleans(),
)
@settings(max_examples=30)
def test_nobody_is_ever_in_two_splits(described, seed, labelled):
    names, attributes = (("Male",), (1,)) if labelled else ((), None)
    sources = [Source(f"{i:03}.jpg", *each, attributes) for i, each in enumerate(described)]
    hashes = [hashlib.sha256(bytes([number])).hexdigest() for number in range(len(sources))]
    own = {(split, identity) for split, identity in described if split and identity}
    twice = len(own) > len({identity for _, identity in own})
    config = load(settings=["data.name=d", f"ingest.seed={seed}", "ingest.shard_size=4"])
    try:
        rows = plan_rows(Listing(sources, names, aligned=False), hashes, config.ingest)
    except UserError as error:
        assert twice and "is in two splits" in str(error)
        return
    assert not twice
    found = set()
    for row, (split, identity) in zip(rows, described, strict=True):
        assert split in (None, row["split"])
        assert row["shard"].startswith(f"d/{row['split']}-")
        found |= {(row["split"], identity)} if identity else set()
    assert len(found) == len({identity for _, identity in found})
    assert max(Counter(row["shard"] for row in rows).values()) <= 4


@pytest.mark.parametrize(
    "name",
    [
        *("photos", "2020", "2021-07-04", "null", "yes", "0x1f", "a: b # c", 'a "b" \\ c: d', "ünï"),
        *("\U0001f600 photos", "\U00020bb7野家", "faces.csv", "faces.tar"),
    ],
)
def test_params_are_pointed_at_any_folder_or_file_and_nothing_else_in_them_changes(name, tmp_path):
    source, params = str(tmp_path / name), tmp_path / "params.yaml"
    Path(source).touch() if "." in name else Path(source).mkdir()
    params.write_bytes(PARAMS.read_bytes())
    set_input(source, params)
    lines, edited = PARAMS.read_text().splitlines(), params.read_text().splitlines()
    assert [line.split(":")[0] for line in lines] == [line.split(":")[0] for line in edited]
    changed = [after for before, after in zip(lines, edited, strict=True) if before != after]
    assert [line.split(":")[0] for line in changed] == ["  input", "  name"]
    assert changed[0].endswith(" # folder of photos, table of paths or tars; known layouts are recognised")
    data = yaml.safe_load(params.read_text())["data"]
    assert data["input"] == source
    assert data["name"] == "faces" if "." in name else isinstance(data["name"], str)
    flags = arguments("", "pipeline.ingest").parse_args(["--input", source])
    assert read_options(flags)[0].data.input == load([params]).data.input == source
    first = params.read_bytes()
    set_input(source, params)
    assert params.read_bytes() == first
    (address(f"memory://{tmp_path.name}/faces") / "a.jpg").write_bytes(b"")
    set_input(f"memory://{tmp_path.name}/faces", params)
    assert load([params]).data.name == "faces"


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
