"""What columns of tables and JSON in tars are called: labels, splits and identities are told apart."""

from pathlib import Path

import pytest

from common.config import load
from common.errors import UserError
from pipeline.ingest.listing import Listing, Source
from tests.listings import plan_rows, read_listing
from tests.test_label_recognition import CELEBA, Files, images, labelled, tar, write


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
def test_labels_named_like_other_columns_or_like_splits_are_refused_by_name(
    names: tuple[str, ...], message: str
) -> None:
    listing = Listing([Source("a.jpg", attributes=(1,) * len(names))], names, aligned=False)
    with pytest.raises(UserError, match=message):
        plan_rows(listing, ["0" * 64], load().ingest)


def test_a_label_named_number_does_not_order_the_manifest() -> None:
    sources = [Source(f"{number}.jpg", attributes=(1 - number % 2,)) for number in range(4)]
    rows = plan_rows(
        Listing(sources, ("number",), False), [f"{i:016x}{0:048}" for i in range(4)], load().ingest
    )
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
def test_columns_that_look_like_splits_are_read_or_refused(
    tmp_path: Path, rows: str, splits: list[str | None] | str
) -> None:
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
        {
            "identity_CelebA.csv": "image_id,identity\n1.jpg,11\n2.jpg,11.00\n",
            "list_attr_celeba.txt": CELEBA,
        },
    ],
    ids=["tables", "a tar", "celeba"],
)
def test_identities_that_are_one_number_are_one_person(tmp_path: Path, files: Files) -> None:
    write(tmp_path, files if "a.tar" in files else {**images(), **files})
    assert [source.identity for source in read_listing(tmp_path).sources] == ["11", "11"]
