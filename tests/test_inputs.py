"""What people feed in: label files, folders and pictures of any kind, real files each."""

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

from common.config import PARAMS, load
from common.errors import UserError
from common.shards import check_key
from common.storage import address
from pipeline.command import arguments, read_options
from pipeline.graph import set_input
from pipeline.ingest.listing import Listing, Source
from tests.listings import encoded, picture, plan_rows, planned, read_listing


def celeba(root: Path, rows: str | None = None, images: tuple[str, ...] = ("1.jpg", "2.jpg")) -> Path:
    (root / "img_align_celeba").mkdir(parents=True)
    for number, name in enumerate(images):
        (root / "img_align_celeba" / name).write_bytes(encoded(picture(seed=number), "jpeg"))
    rows = "2\nMale Young\n1.jpg -1 1\n2.jpg 1 1\n" if rows is None else rows
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


def test_a_folder_is_read_recursively_without_hidden_files_or_links_that_leave_it(tmp_path):
    root = tmp_path / "in"
    (root / "deep" / "er").mkdir(parents=True)
    (tmp_path / "secret.jpg").write_bytes(encoded(picture(seed=9), "jpeg"))
    for number, name in enumerate(("a.jpg", "deep/er/b c.ünï.png", ".hidden.jpg")):
        (root / name).write_bytes(encoded(picture(seed=number), "png"))
    (root / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "loop").symlink_to(root)
    os.close(os.open(os.fsencode(root) + b"/bad\xff.jpg", os.O_CREAT))
    rows = {row["source"]: row["reason"] for row in planned(root, tmp_path / "out")}
    assert rows == {
        "a.jpg": None,
        "deep/er/b c.ünï.png": None,
        "out.jpg": "link-outside",
        "loop": "link-loop",
        "bad\\xff.jpg": "bad-name",
    }


def test_links_are_judged_by_where_they_lead_and_only_plain_files_are_opened(tmp_path):
    root, away = tmp_path / "in", tmp_path / "away"
    (root / "real").mkdir(parents=True)
    away.mkdir()
    (root / "real" / "a.jpg").write_bytes(encoded(picture(), "jpeg"))
    for name, target in {
        "same.jpg": "real/a.jpg",
        "round.jpg": "trip.jpg",
        "trip.jpg": "round.jpg",
        "gone.jpg": "nothing.jpg",
        "other": "real",
        "real/up": "..",
        "away": "../away",
    }.items():
        (root / name).symlink_to(target)
    os.mkfifo(root / "pipe.jpg")
    rows = {row["source"]: row["reason"] for row in planned(root, tmp_path / "out")}
    assert rows == {
        "real/a.jpg": None,
        "same.jpg": "duplicate",
        "round.jpg": "link-loop",
        "trip.jpg": "link-loop",
        "gone.jpg": "unreadable",
        "other": "link-folder",
        "real/up": "link-loop",
        "away": "link-outside",
        "pipe.jpg": "not-a-file",
    }


def test_celeba_follows_links_by_the_same_policy(tmp_path):
    (tmp_path / "secret.jpg").write_bytes(encoded(picture(seed=9), "jpeg"))
    root = celeba(tmp_path / "in")
    (root / "img_align_celeba" / "3.jpg").symlink_to(tmp_path / "secret.jpg")
    rows = {row["source"]: row["reason"] for row in planned(root, tmp_path / "out")}
    assert rows["img_align_celeba/3.jpg"] == "link-outside"
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
        root = base / "in"
        (root / "closed").mkdir(parents=True)
        (root / "closed" / "a.jpg").write_bytes(encoded(picture(seed=1), "jpeg"))
        for number, photo in enumerate(("b.jpg", "c.jpg")):
            (root / photo).write_bytes(encoded(picture(seed=2 + number), "jpeg"))
        (root / "b.jpg").chmod(0)
        (root / "closed").chmod(0)
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


def test_a_file_that_is_larger_than_any_allowed_picture_is_refused_unread(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    with (root / "film.jpg").open("wb") as stream:
        stream.truncate(1 << 40)
    assert [row["reason"] for row in planned(root, tmp_path / "out")] == ["too-large"]


def test_an_empty_or_missing_folder_is_an_error(tmp_path):
    with pytest.raises(UserError, match="holds no files"):
        read_listing(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        read_listing(tmp_path / "none")


def test_drawn_splits_keep_a_person_on_one_side_and_depend_on_the_seed_alone(tmp_path):
    names = tuple(f"{number}.jpg" for number in range(60))
    rows = "60\nMale\n" + "".join(f"{name} 1\n" for name in names)
    root = celeba(tmp_path / "in", rows, names)
    (root / "identity_CelebA.txt").write_text("".join(f"{name} {i // 3}\n" for i, name in enumerate(names)))
    first = planned(root, tmp_path / "a", "ingest.shard_size=7")
    assert first == planned(root, tmp_path / "b", "ingest.shard_size=7")
    splits: dict[object, set[object]] = {}
    for row in first:
        splits.setdefault(row["identity"], set()).add(row["split"])
    assert all(len(found) == 1 for found in splits.values())
    assert {split for found in splits.values() for split in found} == {"train", "val", "test"}
    sizes: dict[object, int] = {}
    for row in first:
        sizes[row["shard"]] = sizes.get(row["shard"], 0) + 1
    assert max(sizes.values()) == 7
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


descriptions = st.lists(
    st.tuples(st.sampled_from([None, "train", "val", "test"]), st.none() | st.sampled_from("abcdefgh")),
    min_size=1,
    max_size=40,
)


@given(descriptions, st.integers(0, 3), st.booleans())
@settings(max_examples=30)
def test_nobody_is_ever_in_two_splits(described, seed, labelled):
    names, attributes = (("Male",), (1,)) if labelled else ((), None)
    sources = [
        Source(f"{number:03}.jpg", split, identity, attributes)
        for number, (split, identity) in enumerate(described)
    ]
    hashes = [hashlib.sha256(bytes([number])).hexdigest() for number in range(len(sources))]
    own: dict[str, set[str]] = {}
    for split, identity in described:
        if split and identity:
            own.setdefault(identity, set()).add(split)
    config = load(settings=["data.name=d", f"ingest.seed={seed}", "ingest.shard_size=4"])
    try:
        rows = plan_rows(Listing(sources, names, aligned=False), hashes, config.ingest)
    except UserError as error:
        assert any(len(splits) > 1 for splits in own.values())
        assert "is in two splits" in str(error)
        return
    assert all(len(splits) == 1 for splits in own.values())
    found: dict[str, set[str]] = {}
    for row, (split, identity) in zip(rows, described, strict=True):
        assert split in (None, row["split"])
        if identity:
            found.setdefault(identity, set()).add(row["split"])
    assert all(len(splits) == 1 for splits in found.values())
    assert all(row["shard"].startswith(f"d/{row['split']}-") for row in rows)
    sizes = Counter(row["shard"] for row in rows)
    assert max(sizes.values()) <= 4


@pytest.mark.parametrize(
    "name",
    [
        *("photos", "2020", "2021-07-04", "null", "yes", "0x1f", "a: b # c", 'a "b" \\ c: d', "ünï"),
        *("\U0001f600 photos", "\U00020bb7野家"),
    ],
)
def test_params_are_pointed_at_any_folder_and_nothing_else_in_them_changes(name, tmp_path):
    (tmp_path / name).mkdir()
    params = tmp_path / "params.yaml"
    params.write_bytes(PARAMS.read_bytes())
    set_input(str(tmp_path / name), params)
    lines, edited = PARAMS.read_text().splitlines(), params.read_text().splitlines()
    assert [line.split(":")[0] for line in lines] == [line.split(":")[0] for line in edited]
    changed = [after for before, after in zip(lines, edited, strict=True) if before != after]
    assert [line.split(":")[0] for line in changed] == ["  input", "  name"]
    assert changed[0].endswith(" # folder of photos, table of paths or tars; known layouts are recognised")
    data = yaml.safe_load(params.read_text())["data"]
    assert data["input"] == str(tmp_path / name)
    assert isinstance(data["name"], str)
    flags = arguments("", "pipeline.ingest").parse_args(["--input", str(tmp_path / name)])
    assert read_options(flags)[0].data.input == load([params]).data.input == data["input"]
    first = params.read_bytes()
    set_input(str(tmp_path / name), params)
    assert params.read_bytes() == first


@pytest.mark.parametrize("name", ["faces.csv", "faces.tar", "faces"], ids=["a table", "a tar", "an address"])
def test_params_are_pointed_at_other_inputs_than_folders(name, tmp_path):
    params = tmp_path / "params.yaml"
    params.write_bytes(PARAMS.read_bytes())
    source = tmp_path / name if "." in name else address(f"memory://{tmp_path.name}/{name}")
    (source if "." in name else source / "a.jpg").write_bytes(b"")
    set_input(str(source), params)
    data = yaml.safe_load(params.read_text())["data"]
    assert data == {"input": str(source), "name": "faces"}
