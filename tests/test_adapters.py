"""The inputs people have, each in the layout in which it is distributed, on disk and at an S3 server."""

from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.shards import KEY_PATTERN
from pipeline.ingest import utkface
from tests.listings import by_path, fill, labels, photo, planned, read_listing, write_tar

# UTKFace


def test_utkface_names_become_attributes(tmp_path):
    names = ["part1/26_1_2_20170104023102422.jpg", "part1/2_0_0_20161219140623097.jpg.chip.jpg"]
    names += ["116_0_4_20170120134744096.jpg", "61_3_20170109150557335.jpg", "140_0_1_20170109150557335.jpg"]
    found = labels(fill(tmp_path, names))
    yes = {path: row and {name for name, value in row.items() if value} for path, row in found.items()}
    assert yes == {
        names[0]: {"Age_20_29", "Asian"},
        names[1]: {"Male", "Age_0_2", "White"},
        names[2]: {"Male", "Age_70_116", "Other_Race"},
        names[3]: None,
        names[4]: None,
    }


@given(st.integers(0, 116), st.integers(0, 1), st.integers(0, 4))
def test_every_utkface_label_is_one_age_one_race_and_a_gender(age, gender, race):
    row = utkface.labels_of(f"deep/{age}_{gender}_{race}_20170104023102422.jpg")
    assert (row[0], sum(row[1:10]), sum(row[10:]), row[10 + race]) == (1 - gender, 1, 1, 1)


# LFW


SCORES = """lfw_attributes.txt\tversion 1
#\tperson\timagenum\tMale\tBig Nose
Aaron Eckhart\t1\t1.5\t-0.2
Aaron Eckhart\t2\t0\tNaN
Zo\u00eb Ball\t1\t-1.0\t2
"""


def lfw(root: Path) -> Path:
    people = ["Aaron_Eckhart/Aaron_Eckhart_0001.jpg", "Aaron_Eckhart/Aaron_Eckhart_0002.jpg"]
    return fill(root, [f"lfw/{name}" for name in (*people, "No_Label/No_Label_0001.jpg")])


def test_lfw_scores_are_yes_above_zero_and_persons_are_identities(tmp_path):
    (lfw(tmp_path) / "lfw_attributes.txt").write_text(SCORES)
    assert labels(tmp_path) == {
        "lfw/Aaron_Eckhart/Aaron_Eckhart_0001.jpg": {"Male": 1, "Big_Nose": 0},
        "lfw/Aaron_Eckhart/Aaron_Eckhart_0002.jpg": {"Male": None, "Big_Nose": None},
        "lfw/No_Label/No_Label_0001.jpg": None,
        "lfw/Zo\u00eb_Ball/Zo\u00eb_Ball_0001.jpg": {"Male": 0, "Big_Nose": 1},
    }
    found = by_path(tmp_path)
    assert found["lfw/No_Label/No_Label_0001.jpg"].identity == "No_Label"
    refused = found["lfw/Zo\u00eb_Ball/Zo\u00eb_Ball_0001.jpg"].refused
    assert refused[0] == "label-without-image"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Aaron Eckhart\t3\t1.5", "line 6: 1 scores for 2 attributes"),
        ("Aaron Eckhart\t3\t1.5\tbig", "line 6: could not convert"),
        ("Aaron Eckhart\t2\t1\t1", "line 6: a second row for Aaron_Eckhart/Aaron_Eckhart_0002.jpg"),
    ],
)
def test_a_malformed_score_is_refused_by_file_and_line(tmp_path, line, message):
    (lfw(tmp_path) / "lfw_attributes.txt").write_text(SCORES + line + "\n")
    with pytest.raises(UserError, match=f"lfw_attributes.txt, {message}"):
        read_listing(tmp_path)


def write_matrices(root: Path, label: np.ndarray, indices: dict[str, list[int]]) -> None:
    """LFWA's files as MATLAB 7.3 writes them: cells are references, matrices have columns first."""
    names = [r"Aaron_Eckhart\Aaron_Eckhart_0001.jpg", r"Aaron_Eckhart\Aaron_Eckhart_0002.jpg"]
    names.append(r"No_Label\No_Label_0001.jpg")
    with h5py.File(root / "lfw_att_40.mat", "w") as content:
        for cell, texts in {"name": names, "AttrName": ["Male", "Big Nose"]}.items():
            references = []
            for position, text in enumerate(texts):
                units = np.frombuffer(text.encode("utf-16-le"), np.uint16)[:, None]
                references.append(content.create_dataset(f"#refs#/{cell}{position}", data=units).ref)
            content.create_dataset(cell, data=np.array([references], h5py.ref_dtype), dtype=h5py.ref_dtype)
        content["label"] = label.T
    with h5py.File(root / "indices_train_test.mat", "w") as content:
        for split, numbers in indices.items():
            content[f"indices_img_{split}"] = np.array([numbers], float)


def test_lfwa_matrices_give_labels_and_their_own_split(tmp_path):
    label = np.array([[1, 0], [0, np.nan], [1, 1]])
    write_matrices(lfw(tmp_path), label, {"train": [1, 2], "test": [3]})
    found = read_listing(tmp_path)
    assert found.attributes == ("Male", "Big_Nose")
    assert [(source.identity, source.split, source.attributes) for source in found.sources] == [
        ("Aaron_Eckhart", "train", (1, 0)),
        ("Aaron_Eckhart", "train", (0, None)),
        ("No_Label", "test", (1, 1)),
    ]


def test_lfwa_matrices_that_make_no_sense_are_refused_by_name(tmp_path):
    write_matrices(lfw(tmp_path), np.ones((3, 2)), {"train": [1, 9], "test": [3]})
    with pytest.raises(UserError, match=r"indices_train_test\.mat counts to 9"):
        read_listing(tmp_path)
    write_matrices(tmp_path, np.full((3, 2), 5.0), {"train": [1], "test": [3]})
    with pytest.raises(UserError, match=r"lfw_att_40\.mat: a label is none of"):
        read_listing(tmp_path)
    (tmp_path / "lfw_att_40.mat").write_text("no matrix")
    with pytest.raises(UserError, match=r"lfw_att_40\.mat: not LFWA"):
        read_listing(tmp_path)


# Tables


def test_a_table_names_paths_splits_identities_and_labels(tmp_path):
    fill(tmp_path, ["a b.jpg", "deep/c,d.png", "e.jpg", "unnamed.jpg"])
    text = 'Male,path,split,identity,Young\n1,a b.jpg,train,x,TRUE\n0,"./deep//c,d.png",,,\n'
    text += ",e.jpg,val,y,\nfalse,gone.jpg,test,z,0.0\n"
    (tmp_path / "faces.csv").write_text(text)
    for place in (tmp_path, tmp_path / "faces.csv"):
        found = read_listing(place)
        assert found.attributes == ("Male", "Young")
        rows = {s.path: (s.split, s.identity, s.attributes) for s in found.sources}
        assert rows == {
            "a b.jpg": ("train", "x", (1, 1)),
            "deep/c,d.png": (None, None, (0, None)),
            "e.jpg": ("val", "y", None),
            "gone.jpg": ("test", "z", (0, 0)),
        }
    rows = {row["source"]: row for row in planned(tmp_path / "faces.csv", tmp_path / "out")}
    assert rows["gone.jpg"]["reason"] == "label-without-image"
    assert (rows["e.jpg"]["notices"], rows["deep/c,d.png"]["notices"]) == ("no-label", "unknown-label")
    (tmp_path / "faces.csv").write_text(text.replace("false", "-1"))  # whose 0 is unknown
    assert {s.path: s.attributes for s in read_listing(tmp_path).sources}["deep/c,d.png"] is None


def test_metadata_jsonl_of_an_imagefolder_has_labels_and_its_folders_are_splits(tmp_path):
    fill(tmp_path, ["train/a.jpg", "train/b.jpg", "test/a.jpg"])
    lines = '{"file_name": "a.jpg", "Male": 1}\n\n{"file_name": "b.jpg", "Young": false, "Male": null}\n'
    (tmp_path / "train" / "metadata.jsonl").write_text(lines)
    (tmp_path / "test" / "metadata.jsonl").write_text('{"Young": 1, "file_name": "a.jpg", "Male": 0}\n')
    found = read_listing(tmp_path)
    values = {
        s.path: (s.split, dict(zip(found.attributes, s.attributes, strict=True))) for s in found.sources
    }
    assert values == {
        "test/a.jpg": ("test", {"Young": 1, "Male": 0}),
        "train/a.jpg": ("train", {"Young": None, "Male": 1}),
        "train/b.jpg": ("train", {"Young": 0, "Male": None}),
    }


def test_a_parquet_table_may_hold_any_types_but_pictures(tmp_path):
    fill(tmp_path, ["a.jpg", "b.jpg"])
    typed = {"path": ["a.jpg", "b.jpg"], "Male": [True, None], "Young": [0.0, float("nan")]}
    as_bytes = {"image": [b"a.jpg", b"b.jpg"], "Male": [b"1", None], "identity": [b"x", b"y"]}
    for columns, expected in (
        ({**typed, "identity": [7, None]}, [("7", (1, 0)), (None, None)]),
        (as_bytes, [("x", (1,)), ("y", None)]),
    ):
        pq.write_table(pa.table(columns), tmp_path / "t.parquet")
        assert [(s.identity, s.attributes) for s in read_listing(tmp_path).sources] == expected
    pq.write_table(pa.table({"path": ["a.jpg"], "Male": [3]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"t\.parquet, row 1, Male: 3 is none of 1, 0, -1"):
        read_listing(tmp_path)
    for pictures in ([{"bytes": photo(), "path": "a.jpg"}], [photo()], [[[0, 255]]]):
        pq.write_table(pa.table({"image": pictures, "Male": [1]}), tmp_path / "t.parquet")
        with pytest.raises(UserError, match=r"t\.parquet: the column image holds .*pictures") as refused:
            read_listing(tmp_path)
        assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("path,Male\na.jpg,1,0\n", "line 2: 3 cells for 2 columns"),
        ('path,Male\n"a\nb.jpg",1\nc.jpg\n', "line 4: 1 cells for 2 columns"),
        ("path,Male\na.jpg,1\n\nb.jpg,2\n", "line 4, Male: '2' is none of 1, 0, -1"),
        ("path,Male\na.jpg,1\n./a.jpg,1\n", "line 3: a second row for a.jpg, after .*line 2"),
        ("path,Male\n,1\n", "line 2: the path is empty"),
        ("path,Male,Male\n", "line 1: column names were expected"),
        ("path,split\na.jpg,dev\n", "line 2, split: 'dev' is none of"),
        ("", "line 1: no column of paths"),
        (b"path\n\x81\xfe.jpg\n", "not text in UTF-8, UTF-16 or Windows-1252"),
    ],
)
def test_a_malformed_table_is_refused_by_file_and_line(tmp_path, table, message):
    file = fill(tmp_path, ["a.jpg"]) / "faces.csv"
    file.write_bytes(table.encode() if isinstance(table, str) else table)
    with pytest.raises(UserError, match=f"faces.csv.*{message}"):
        read_listing(file)


def test_a_table_cannot_reach_out_of_its_folder(tmp_path):
    root = fill(tmp_path / "in", ["a.jpg"])
    fill(tmp_path, ["secret.jpg"])
    (root / "link").symlink_to(tmp_path)
    (root / "t.csv").write_text(f"path\na.jpg\n../secret.jpg\n{tmp_path}/secret.jpg\nlink/secret.jpg\n")
    rows = {str(row["source"]): row["reason"] for row in planned(root, tmp_path / "out")}
    assert rows.pop("a.jpg") is None
    assert rows.pop("link/secret.jpg") == "link-outside"
    assert list(rows.values()) == ["path-outside"] * 2


# Which adapter


def test_a_format_may_be_named_and_has_to_fit(tmp_path):
    name = "1_0_0_20170104023102422.jpg"
    fill(tmp_path, [name])
    (tmp_path / "x.csv").write_text("path\na.jpg\n")
    assert set(by_path(tmp_path, "folder")) == {name}
    with pytest.raises(UserError, match="neither a folder nor a .csv"):
        read_listing(tmp_path / name)
    with pytest.raises(UserError, match="the format celeba is a folder"):
        read_listing(tmp_path / "x.csv", "celeba")


name = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=20)


@given(st.lists(name.filter(lambda text: "." not in text), min_size=1, max_size=5, unique=True))
@settings(max_examples=40)
def test_keys_are_names_that_cannot_leave_a_folder_whatever_the_members_are_called(tmp_path_factory, names):
    place = tmp_path_factory.mktemp("in")
    members = {f"../../{text}.jpg": photo(number) for number, text in enumerate(names)}
    write_tar(place / "x.tar", members)
    rows = planned(place, tmp_path_factory.mktemp("out"))
    assert len(rows) == len(names)
    for row in rows:
        assert row["reason"] is not None or KEY_PATTERN.fullmatch(str(row["key"]))
    assert not (place.parent.parent / f"{names[0]}.jpg").exists()


# Labels that are joined to a folder


def test_a_table_of_labels_is_joined_and_takes_the_place_of_the_data_sets_labels_of_the_same_names(tmp_path):
    root = fill(tmp_path / "photos", ["a.jpg", "b.jpg", "deep/c.png"])
    labels = "path,Male,Young,identity\na.jpg,0,1,x\nb.jpg,,,\ngone.jpg,0,1,\n"
    (tmp_path / "labels.csv").write_text(labels)

    def rows(place: Path, *names: str) -> dict[str, list[object]]:
        shares = ("ingest.test_fraction=1", "ingest.val_fraction=0")
        found = planned(place, tmp_path / "out", f"ingest.labels={tmp_path / 'labels.csv'}", *shares)
        assert [row["source"] for row in found if row["reason"] == "label-without-image"] == ["gone.jpg"]
        return {row["source"]: [row[name] for name in names] for row in found if not row["reason"]}

    assert rows(root, "Male", "Young", "identity", "split", "notices") == {
        "a.jpg": [0, 1, "x", "test", None],
        "b.jpg": [None, None, None, "unlabelled", "no-label"],
        "deep/c.png": [None, None, None, "unlabelled", "no-label"],
    }
    (root / "t.csv").write_text("path,Hat,Male,split\na.jpg,1,1,test\nb.jpg,0,1,train\ndeep/c.png,1,0,val\n")
    assert rows(root / "t.csv", "Hat", "Male", "Young", "split") == {
        "a.jpg": [1, 0, 1, "test"],
        "b.jpg": [0, None, None, "train"],
        "deep/c.png": [1, 0, None, "val"],
    }
