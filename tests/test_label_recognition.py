"""Labels as people have them: each layout is read, or refused by a sentence that names what was found."""

import json
import unicodedata
from pathlib import Path

import pytest

from common.config import load
from common.errors import UserError
from pipeline.ingest.listing import Listing, Source
from tests.listings import plan_rows, read_listing, tar

CELEBA = "2\nMale Young\n1.jpg -1 1\n2.jpg 1 1\n"
CELEBA_CSV = "image_id,Male,Young\n1.jpg,-1,1\n2.jpg,1,1\n"
MALE = {"1": 0, "2": 1}
"""The label Male of the images 1 and 2 in `CELEBA` and in all tables of this module."""

Files = dict[str, str | bytes]


def write(root: Path, files: Files) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def images(folder: str = "", suffix: str = ".jpg") -> Files:
    return {f"{folder}{name}{suffix}": f"photo {name}" for name in MALE}


ROWS = "path,Male\n1.jpg,0\n2.jpg,1\n"


def table(content: str | bytes) -> Files:
    return {**images(), "labels.csv": content}


def male(root: Path) -> dict[str, int | None]:
    """The label Male of every source by the last part of its path without extension."""
    listing = read_listing(root)
    column = listing.attributes.index("Male")
    sources = [source for source in listing.sources if source.refused is None]
    return {
        Path(source.path.rpartition("::")[2]).stem: source.attributes and source.attributes[column]
        for source in sources
    }


def labelled(name: str, value: int, **more: object) -> list[tuple[str, str | bytes]]:
    content = json.dumps({"attributes": {"Male": value}, **more})
    return [(f"{name}.jpg", f"photo {name}"), (f"{name}.json", content)]


ALIGNED = images("img_align_celeba/")


def labelled_by(text: str | bytes, pictures: Files = ALIGNED) -> Files:
    return {**pictures, "list_attr_celeba.txt": text}


MALE_0 = '{"attributes": {"Male": 0}}'
TAR = tar([*labelled("1", 0), *labelled("2", 1)])
KAGGLE = "img_align_celeba/img_align_celeba/"
LFW = "lfw_attributes\n#\tperson\timagenum\tMale\nAnn Lee\t1\t-1\nAnn Lee\t2\t1\n"
LFW_IMAGES: Files = {f"Ann_Lee/Ann_Lee_000{name}.jpg": f"photo {name}" for name in MALE}
FAIRFACE = "file,age,gender,race,service_test\n{0}/{1}.jpg,more than 70,{2},East Asian,True\n"

READ: dict[str, Files] = {
    "celeba in its own folders": {
        **images("Img/img_align_celeba/"),
        "Anno/list_attr_celeba.txt": CELEBA,
        "Eval/list_eval_partition.txt": "1.jpg 0\n2.jpg 1\n",
    },
    "celeba as kaggle nests it": {
        **images(KAGGLE),
        "list_attr_celeba.csv": CELEBA_CSV,
        "list_eval_partition.csv": "image_id,partition\n1.jpg,0\n2.jpg,2\n",
        "list_bbox_celeba.csv": "image_id,x_1\n1.jpg,95\n",
    },
    "celeba in a folder above, as torchvision lays it out": {
        **images("celeba/img_align_celeba/"),
        "celeba/list_attr_celeba.txt": CELEBA,
    },
    "png copies whose label file says jpg": labelled_by(CELEBA, images("img_align_celeba_png/", ".png")),
    "png copies in the folder of the originals": labelled_by(CELEBA, images("img_align_celeba/", ".PNG")),
    "images of celeba in a folder of another name": labelled_by(CELEBA, images("faces/")),
    "a label file with a byte order mark": labelled_by(CELEBA.encode("utf-8-sig")),
    "a label file in utf-16": labelled_by(CELEBA.encode("utf-16")),
    "celeba-hq": {**images("CelebA-HQ-img/"), "CelebAMask-HQ-attribute-anno.txt": CELEBA},
    "a csv of excel with sep": table("sep=;\npath;Male\n1.jpg;0\n2.jpg;1\n"),
    "a tsv": {**images(), "labels.tsv": ROWS.replace(",", "\t")},
    **{f"a csv with {mark!r}": table(ROWS.replace(",", mark)) for mark in (";", "\t", " , ")},
    **{f"a csv in {code}": table(ROWS.encode(code)) for code in ("utf-16", "utf-16-le")},
    **{f"paths in {name}": table(ROWS.replace("path", name)) for name in ("file", "image", "Path", "")},
    "a column called Image Path": table("Male,Image Path\n0,1.jpg\n1,2.jpg\n"),
    "an index column of pandas": table(",path,Male\n0,1.jpg,0\n1,2.jpg,1\n"),
    "an index column of pandas that was read again": table("Unnamed: 0,path,Male\n0,1.jpg,0\n1,2.jpg,1\n"),
    "empty rows at the end": table(f"{ROWS},\n,\n"),
    "back-slashed paths": {**images("a/"), "labels.csv": "path,Male\na\\1.jpg,0\n.\\a\\2.jpg,1\n"},
    "paths without extension": {**images("a/"), "labels.csv": "path,Male\na/1,0\na/2,1\n"},
    "another extension, and capitals": {**images("", ".JPG"), "labels.csv": "path,Male\n1.jpeg,0\n2.png,1\n"},
    "names of images that lie deeper": {**images("deep/er/"), "labels.csv": ROWS.replace("2", "er/2")},
    "a table in a folder beside the images": {
        **images("photos/"),
        "labels/all.csv": "path,Male\n../photos/1.jpg,0\nphotos/2.jpg,1\n",
    },
    "a table per split": {
        **images(),
        "labels_train.csv": ROWS.partition("2")[0],
        "labels_valid.csv": "path,Male\n2.jpg,1\n",
    },
    "maad-face": {
        **images("train/n000001/"),
        "MAAD_Face.csv": "Filename,Identity,Male,Bald\nn000001/1.jpg,1,-1,0\nn000001/2.jpg,1,1,-1\n",
    },
    "fairface": {
        "train/1.jpg": "1",
        "val/2.jpg": "2",
        "fairface_label_train.csv": FAIRFACE.format("train", 1, "Female"),
        "fairface_label_val.csv": FAIRFACE.format("val", 2, "Male"),
    },
    "tars in folders": {"train/0.tar": tar(labelled("1", 0)), "val/0.tar": tar(labelled("2", 1))},
    "names in capitals": {"A.TAR": TAR},
    "members in capitals": {"a.tar": tar([("1.JPG", ""), ("1.JSON", MALE_0), *labelled("2", 1)])},
    "members below a dot": {"a.tar": tar([*labelled("./1", 0), *labelled("./2", 1)])},
    "apple's hidden members": {
        "a.tar": tar([("._1.jpg", "no photo"), ("__MACOSX/._1.json", "no JSON"), *labelled("1", 0)]) + b"",
        "b.tar": tar([(".cache/3.jpg", "hidden"), *labelled("2", 1)]),
    },
    "a member again": {"a.tar": tar([*labelled("1", 1), *labelled("2", 1), *labelled("1", 0)])},
    "captions beside photos": {**images("a/"), "a/1.txt": "a photo of 1.jpg", "a/labels.csv": ROWS},
}


@pytest.mark.parametrize("case", READ)
def test_labels_are_read_from(case, tmp_path):
    assert male(write(tmp_path, READ[case])) == MALE


@pytest.mark.parametrize("prefix", ["", "lfw/", "lfw-deepfunneled/lfw-deepfunneled/"])
def test_lfw_is_read_however_it_is_nested(prefix, tmp_path):
    write(tmp_path, {f"{prefix}{name}": data for name, data in LFW_IMAGES.items()})
    write(tmp_path, {"lfw_attributes.txt": LFW, "lfw_allnames.csv": "name,images\nAnn Lee,2\n"})
    assert male(tmp_path) == {"Ann_Lee_0001": 0, "Ann_Lee_0002": 1}


def test_names_in_composed_form_mean_files_in_decomposed_form_and_absolute_paths_are_read(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "Zoë") for form in ("NFC", "NFD"))
    rows = f"path,Male\n{composed}1.jpg,0\n{tmp_path}/./{decomposed}2.jpg,1\n"
    write(tmp_path, {f"{decomposed}1.jpg": "1", f"{composed}2.jpg": "2", "labels.csv": rows})
    assert sorted(male(tmp_path).values()) == [0, 1]


def test_a_table_in_latin_1_is_read_and_that_is_reported(tmp_path):
    rows = "path,Male\nZoë.jpg,0\nJörg.jpg,1\n".encode("latin-1")
    write(tmp_path, {"Zoë.jpg": "1", "Jörg.jpg": "2", "labels.csv": rows})
    assert male(tmp_path) == {"Zoë": 0, "Jörg": 1}
    assert read_listing(tmp_path).remarks == ("labels.csv is not UTF-8 and was read as Windows-1252",)


REFUSED: dict[str, tuple[Files, str]] = {
    "a zip that was never unpacked": (
        {"img_align_celeba.zip": "PK", "list_attr_celeba.txt": CELEBA},
        "unpack img_align_celeba.zip",
    ),
    "a 7z in the folders of celeba": (
        {"Img/img_celeba.7z/img_celeba.7z.001": "7z", "Anno/list_attr_celeba.txt": CELEBA},
        "unpack Img/img_celeba.7z/img_celeba.7z.001",
    ),
    "celeba without labels": (images("img_align_celeba/"), "no list_attr_celeba.txt"),
    "celeba twice": (
        {**ALIGNED, "a/list_attr_celeba.txt": CELEBA, "b/list_attr_celeba.csv": CELEBA_CSV},
        "has both a/list_attr_celeba.txt and b/list_attr_celeba.csv",
    ),
    "labels of other images": (
        {"img_align_celeba/a.jpg": "a", "list_attr_celeba.txt": CELEBA},
        "a row names 1.jpg, an image is called img_align_celeba/a.jpg",
    ),
    "lfw without labels": ({f"lfw/{name}": "" for name in LFW_IMAGES}, "none of lfw_att_40.mat"),
    "a table whose columns name no image": (
        {**images(), "people.csv": "name,price\n1,2\n"},
        "people.csv, line 1: no column of paths among name, price",
    ),
    "a table without a header line": (table("1.jpg,0\n2.jpg,1\n"), "1.jpg, 0: not column names; add a line"),
    "a table of another machine": (
        table("path,Male\nC:\\photos\\1.jpg,0\n/data/2.jpg,1\n"),
        r"labels.csv: no row matches an image; a row names C:\\photos\\1.jpg, an image is called 1.jpg",
    ),
    "a row that may mean two images": (
        {"a/1.jpg": "a", "b/1.jpg": "b", "labels.csv": "path,Male\n1.jpg,0\n"},
        "labels.csv, line 2: 1.jpg may mean a/1.jpg or b/1.jpg",
    ),
    "tables of different columns": (
        {**images(), "a.csv": "path,Male\n1.jpg,0\n", "b.csv": "path,Age\n1.jpg,9\n"},
        "several tables: a.csv with Male, b.csv with Age",
    ),
    "a column of words": (table("path,age\n1.jpg,old\n"), "line 2, age: 'old' is none of"),
    "a spreadsheet": ({**images(), "labels.xlsx": "PK"}, "labels.xlsx, which is not read; save its labels"),
    "a text file of labels": ({**images(), "labels.txt": "1.jpg 0\n2.jpg 1\n"}, "labels.txt names images,"),
    "a json of labels": (
        {**images("a/"), "labels.json": '{"1.jpg": {"Male": 0}, "2.jpg": {"Male": 1}}'},
        "labels.json names images, such as 1.jpg",
    ),
    "boxes in metadata.jsonl of hugging face": (
        {**images("train/"), "train/metadata.jsonl": '{"file_name": "1.jpg", "objects": {"bbox": []}}\n'},
        "train/metadata.jsonl, line 1: objects holds several values",
    ),
    "a broken metadata.jsonl of hugging face": (
        {**images("train/"), "train/metadata.jsonl": '{"file_name": "1.jpg", "Hat": 1}\n{"file_na'},
        "train/metadata.jsonl, line 2: no JSON object",
    ),
    "a few names of utkface": (
        {**images(), "3.jpg": "3", "9_0_2_20170116174525125.jpg": "4"},
        "1 of the 4 images .* have names like UTKFace's",
    ),
    "tars beside photos": ({**images(), "a.tar": TAR}, "has both images and a.tar"),
    "a compressed tar": ({"a.tar.gz": b"\x1f\x8b\x08"}, "a.tar.gz is compressed with gzip"),
    "a compressed tar without the name": ({"a.tar": b"\x1f\x8b\x08"}, "a.tar is compressed with gzip"),
    **{
        f"{name} {content!r}": ({"a.tar": tar([("1.jpg", ""), (name, content)])}, f"a.tar::{name}{said}")
        for name, content, said in (
            ("1.json", '{"Male": 1}', ": Male: labels are read from an object 'attributes'"),
            ("1.json", '{"label": "cat"}', ": label: labels are read from"),
            ("1.json", '{"attributes": {"Male": "perhaps"}}', ", Male: 'perhaps'"),
            ("1.json", '{"attributes": {"Male": 1}, "is_train": true}', ": 'is_train' looks like splits"),
            ("1.json", '{"attributes": {"Male": 1}, "split": "dev"}', ", split: 'dev' is none of"),
            ("1.json", "3", ".*an object was expected"),
            ("1.cls", b"\x80\x04K\x01.", ": a class number was expected"),  # a pickle
        )
    },
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_sentence_refuses(case, tmp_path):
    files, sentence = REFUSED[case]
    with pytest.raises(UserError, match=sentence):
        read_listing(write(tmp_path, files))


@pytest.mark.parametrize("folder", ["img_align_celeba", "img_align_celeba/img_align_celeba"])
def test_the_folder_of_images_alone_is_refused_if_the_labels_lie_above_it(folder, tmp_path):
    write(tmp_path, {**images(f"{folder}/"), "list_attr_celeba.txt": CELEBA})
    with pytest.raises(UserError, match=rf"list_attr_celeba.txt; name {tmp_path} as --input"):
        read_listing(tmp_path / folder)


def test_side_files_are_not_taken_for_labels_nor_a_table_with_the_format_folder(tmp_path):
    files = {"1.txt": "a photo of a man", "2.txt": "a woman, smiling", "README.md": "1.jpg and 2.jpg"}
    files |= {"1.jpg.json": '{"title": "1.jpg"}', "2.jpg.json": '{"title": "2.jpg"}'}
    assert read_listing(write(tmp_path, {**images(), **files})).attributes == ()
    assert read_listing(write(tmp_path, {"people.csv": "name,price\n"}), "folder").attributes == ()


@pytest.mark.parametrize("word", ["val", "VALID", "validation"])
def test_a_split_is_val_in_tables_and_in_names_and_json_of_tars(word, tmp_path):
    inputs: list[Files] = [
        table(f"path,Male,Split\n1.jpg,0,{word}\n2.jpg,1,{word}\n"),
        {f"{word}-000.tar": TAR},
        {f"{word}/000.tar": TAR},
        {"train-000.tar": tar(labelled("1", 0, split=word))},
    ]
    for number, files in enumerate(inputs):
        listing = read_listing(write(tmp_path / str(number), files))
        assert {source.split for source in listing.sources} == {"val"}


def test_dots_in_keys_keep_the_labels_of_each_photo_and_masks_are_no_photos(tmp_path):
    members = [*labelled("IMG.1", 0), *labelled("IMG.2", 1), *labelled("a", 1), ("a.mask.png", "mask")]
    assert male(write(tmp_path, {"a.tar": tar(members)})) == {"IMG.1": 0, "IMG.2": 1, "a": 1}


def test_what_is_not_read_or_not_complete_is_reported(tmp_path):
    members = [("1.jpg", ""), ("1.json", '{"caption": "a man"}'), ("1.txt", "a man"), ("2.cls2", "7")]
    write(tmp_path / "tar", {"a.tar": tar(members) + tar(labelled("2", 1))})
    listing = read_listing(tmp_path / "tar")
    remark = "not read in the tars: JSON key caption (1), members .cls2 (1), members .txt (1)"
    assert listing.remarks == (remark,)
    refused = {source.path: source.refused for source in listing.sources}
    joined = "the tar is damaged: it goes on after its end, as tars do that were joined with cat"
    assert refused == {"a.tar::1.jpg": None, "a.tar": ("truncated", joined)}
    write(tmp_path / "celeba", {**ALIGNED, "list_attr_celeba.txt": CELEBA.replace("2\n", "202599\n", 1)})
    remark = "list_attr_celeba.txt announces 202,599 rows and has 2; is it complete?"
    assert read_listing(tmp_path / "celeba").remarks == (remark,)


def test_the_two_photos_of_one_time_stamp_in_utkface_are_one_person(tmp_path):
    stamp = "20170116174525125"
    write(tmp_path, {f"wild/9_0_2_{stamp}.jpg": "a", f"crop/9_0_2_{stamp}.jpg.chip.jpg": "b"})
    write(tmp_path, {"wild/61_3_20170109150557335.jpg": "c"})
    identities = [source.identity for source in read_listing(tmp_path).sources]
    assert identities == [stamp, "20170109150557335", stamp]


def test_duplicates_with_contrary_labels_are_refused_as_such_and_others_as_duplicates():
    labels = {"a.jpg": (1, None), "b.jpg": (0, 1), "c.jpg": (1, 1), "d.jpg": None}
    listing = Listing([Source(path, attributes=row) for path, row in labels.items()], ("Male", "Bald"), False)
    rows = plan_rows(listing, ["0" * 64] * 4, load().ingest)
    assert [row["reason"] for row in rows] == [None, "contrary-labels", "duplicate", "duplicate"]
    assert rows[2]["detail"] == "same bytes as a.jpg"
