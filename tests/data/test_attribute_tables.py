"""Tables of attributes, splits and people, in the forms that people have them in."""

from __future__ import annotations

import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from listed import by_split, listing
from PIL import Image

from lanit.config import LanitError
from lanit.data.sheet import read_sheet
from lanit.data.sources import open_source

CELEBA = "4\nBlond_Hair Smiling\na.jpg  1 -1\nb.jpg -1  1\nc.jpg -1 -1\nd.jpg 1 1\n"
CSV = "name,Blond_Hair,Smiling\na.jpg,1,0\nb.jpg,false,TRUE\nc.jpg,0,-1\nd.jpg,true,1\n"
REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "celeba"


@pytest.fixture
def portraits(save, tmp_path):
    """A folder of four images, and a table beside it; returns the options that read them."""
    for name in "abcd":
        save(f"portraits/{name}.jpg")

    def options(text: str | bytes, **more) -> dict:
        data = text if isinstance(text, bytes) else text.encode()
        (tmp_path / "table.txt").write_bytes(data)
        return {"kind": "table", "images": str(tmp_path / "portraits"), "table": str(tmp_path / "table.txt")} | more

    return options


@pytest.fixture
def crowd(save, tmp_path):
    """200 tiny images of 40 people, class x for every second and class rare for 8; the options that read them."""
    names = [f"{i:03d}.png" for i in range(200)]
    for name in names:
        save(f"crowd/{name}", Image.new("L", (1, 1)))
    rows = [f"{name},{i % 2},{int(i % 25 == 3)},p{i // 5}" for i, name in enumerate(names)]

    def options(header: str = "name,x,rare,identity", columns: int = 4, extra: list[str] | None = None, **more) -> dict:
        lines = [",".join(row.split(",")[:columns]) for row in rows]
        if extra is not None:
            lines = [f"{line},{value}" for line, value in zip(lines, extra, strict=True)]
        (tmp_path / "crowd.csv").write_text("\n".join([header, *lines]))
        return {"kind": "table", "images": str(tmp_path / "crowd"), "table": str(tmp_path / "crowd.csv")} | more

    return options


# Forms


@pytest.mark.parametrize(
    "text",
    [
        CELEBA,
        CSV,
        CSV.replace(",", ";"),
        CSV.replace(",", "\t"),
        CSV.replace(",", "|"),
        "sep=;\n" + CSV.replace(",", ";"),
        CSV.replace("name", "image_id"),
        CSV.replace("name", "Filename"),
        CSV.replace("name,Blond_Hair,Smiling", '"name", "Blond_Hair", Smiling').replace("a.jpg", '"a.jpg"'),
        CSV.replace("\n", "\r\n"),
        CSV.replace("\n", "\r"),
        CSV.replace(".jpg", ""),
        CSV.replace(".jpg", ".png"),
        CSV.replace("a.jpg,1,0", "a.jpg,1.0,-1.0"),
        b"\xef\xbb\xbf" + CSV.encode(),
        CSV.replace(",", "\t").encode("utf-16"),
        CSV.encode("utf-16-be"),
        CSV.encode("utf-16-le"),
    ],
)
def test_all_forms_of_a_table_say_the_same(portraits, text):
    found = listing(**portraits(text, test_last=2))
    assert found.classes == ("blond hair", "smiling") and not found.exclusive
    assert found.names == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert found.truth.tolist() == [[True, False], [False, True], [False, False], [True, True]]
    assert found.splits == ["train", "train", "test", "test"]


def test_a_table_may_say_jpg_of_what_is_png(portraits, tmp_path):
    (tmp_path / "portraits" / "b.jpg").rename(tmp_path / "portraits" / "b.png")
    found = listing(**portraits(CSV, test_last=2))
    assert found.names == ["a.jpg", "b.png", "c.jpg", "d.jpg"]
    assert any("1 names in" in note and "b.jpg of b.png" in note for note in found.notes)
    assert open_source(portraits(CSV, test_last=2)).read("b.png", 16).shape == (16, 16, 3)


def test_where_two_files_could_be_meant_one_is_asked_for(portraits, save):
    save("portraits/e.png"), save("portraits/e.webp")
    with pytest.raises(LanitError, match="line 6: e.jpg may be e.png or e.webp; say which"):
        listing(**portraits(CSV + "e.jpg,1,1\n", test_last=2))
    with pytest.raises(LanitError, match=r"line 7: e.jpg may be|line 7: e.png is the image of"):
        listing(**portraits(CSV + "e.webp,1,1\ne.jpg,1,1\n", test_last=2))


def test_two_rows_for_one_file_are_refused(portraits):
    with pytest.raises(LanitError, match="line 6: d.png is the image of d.jpg, which has a row already"):
        listing(**portraits(CSV + "d.png,1,1\n", test_last=2))


def test_columns_of_a_table_are_chosen_and_others_may_hold_anything(portraits):
    found = listing(**portraits(CELEBA, test_last=2, classes=["Smiling"]))
    assert found.classes == ("smiling",) and found.truth.tolist() == [[False], [True], [False], [True]]
    text = "name,age,Smiling\na.jpg,31,1\nb.jpg,,0\nc.jpg,x,1\nd.jpg,7,0\n"
    assert listing(**portraits(text, test_last=2, classes=["Smiling"])).truth[:, 0].tolist() == [True, False] * 2


def test_accents_are_the_same_letters_in_the_table_and_on_the_disk(save, tmp_path):
    """Written apart by macOS, as bytes of Latin-1 by an old system, joined by a keyboard."""
    save("flat/caf\u00e9.png"), save("flat/e\u0301te\u0301.png"), save("flat/nai\udcefve.png"), save("flat/z.png")
    text = "name,tr\u00e8s\ncafe\u0301.png,1\n\u00e9t\u00e9.png,0\nnai\u00efve.png,1\nz.png,0\n"
    (tmp_path / "table.csv").write_text(text)
    options = {"kind": "table", "images": str(tmp_path / "flat"), "table": str(tmp_path / "table.csv"), "test_last": 2}
    found = listing(**options, classes=["tre\u0300s"])
    truth = dict(zip(found.names, found.truth[:, 0].tolist()))
    assert found.classes == ("tr\u00e8s",)
    assert truth == {"caf\u00e9.png": True, "e\u0301te\u0301.png": False, "nai\udcefve.png": True, "z.png": False}


@pytest.mark.parametrize(
    "text, sentence",
    [
        (CELEBA.replace("4\n", "5\n"), "says 5 images in line 1 but has 4 rows"),
        (CELEBA.replace("-1  1", "-1"), "line 4: 1 values for 2 columns"),
        (CELEBA.replace("c.jpg", "a.jpg"), "line 5: a.jpg has a row already"),
        (CSV.replace("TRUE", "maybe"), "line 3: Smiling is 'maybe', but must be 0 or 1, -1 or 1, true or false"),
        (
            CSV.replace("name", "photo"),
            r"no column 'name' \(or image_id, .*which begins with 'photo,Blond_Hair,Smiling'",
        ),
        (CSV.replace("c.jpg", "../c.jpg"), "1 of the 4 images .* are missing in .*portraits, the first ../c.jpg"),
        (CSV + "e.jpg,1,1\n", "1 of the 5 images that .* lists are missing in .*portraits, the first e.jpg"),
        (CSV + ",1,1\n", "line 6: the name of the image is missing"),
        (CSV.replace("Smiling", "Blond_Hair"), "has the column 'Blond_Hair' twice"),
        (
            CSV.replace("b.jpg,", 'b.jpg,"'),
            r"line 3 is no row of a CSV \(unexpected end of data\): a quote is not closed",
        ),
        ("name,x\n", "lists no images"),
        ("name\na.jpg\n", "has no columns but that of names"),
        ("", "no column 'name'"),
        (b"PK\x03\x04\x00\x00" + bytes(300), "table.txt is a spreadsheet: save it as CSV"),
        (b"\x89PNG\r\n\x1a\n" + bytes(300), "table.txt is no text: give a list_attr file or a CSV"),
    ],
)
def test_a_mistake_in_a_table_is_named_with_its_line(portraits, text, sentence):
    with pytest.raises(LanitError, match=sentence) as error:
        listing(**portraits(text, test_last=2))
    assert len(str(error.value)) < 500 and "\n" not in str(error.value)


def test_a_quote_left_open_in_a_long_table_ends_in_one_short_sentence(portraits):
    text = "name,x\n" + "".join(f"{i}.jpg,1\n" for i in range(20_000))
    with pytest.raises(LanitError, match="line 9 is no row of a CSV") as error:
        listing(**portraits(text.replace("7.jpg,1", '7.jpg,"1', 1), test_last=2))
    assert len(str(error.value)) < 300
    with pytest.raises(LanitError) as error:
        listing(**portraits(text.replace("7.jpg,1", f"7.jpg,{'1' * 130_000}", 1), test_last=2, classes=["x"]))
    assert len(str(error.value)) < 400


def test_images_without_a_row_and_rows_without_an_image_are_said(portraits, tmp_path, without_heic):
    found = listing(**portraits(CSV.replace("c.jpg,0,-1\n", ""), test_last=1))
    assert found.names == ["a.jpg", "b.jpg", "d.jpg"]
    assert any("1 images in" in note and "the first c.jpg" in note for note in found.notes)
    found = listing(**portraits(CSV + "e.jpg,1,1\nf.jpg,1,1\n", test_last=1, allow_missing=True))
    assert found.names == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert any(
        "2 of the 6 images" in note and "the first e.jpg: their rows are left out" in note for note in found.notes
    )
    (tmp_path / "portraits" / "a.heif").write_bytes(b"...")
    with pytest.raises(LanitError, match=r"4 of the 4 images that .* are missing .* 1 \.heif \(the first a\.heif\)"):
        listing(**portraits(CSV.replace(".jpg", "_.jpg"), test_last=1, allow_missing=True))


def test_missing_folder_and_table_say_what_goes_where(portraits, tmp_path):
    with pytest.raises(LanitError, match="no folder at .*nowhere: put the images that .*table.txt lists"):
        listing(**portraits(CSV, test_last=1) | {"images": str(tmp_path / "nowhere")})
    with pytest.raises(LanitError, match="no attribute table at .*nowhere.csv: put a list_attr file or a CSV"):
        listing(**portraits(CSV, test_last=1) | {"table": str(tmp_path / "nowhere.csv")})
    with pytest.raises(LanitError, match="source.classes has 'Old', which is no column .*; known are Blond_Hair, S"):
        listing(**portraits(CSV, test_last=1, classes=["Old"]))


# Splits


def test_a_table_has_a_val_share_too(crowd):
    before = by_split(listing(**crowd(columns=3, header="name,x,rare", test_last=60)))
    after = by_split(listing(**crowd(columns=3, header="name,x,rare", test_last=60, val_share=0.25)))
    assert after["test"] == before["test"] == {f"{i:03d}.png" for i in range(140, 200)}
    assert after["val"] | after["train"] == before["train"] and 20 < len(after["val"]) < 60


def test_a_column_decides_the_splits(crowd):
    words = ["train", "Validation", "2", "test", "train", "0", "", "pretrain"]
    extra = [words[i % 8] for i in range(200)]
    options = crowd("name,x,split", 2, extra)
    found = listing(**options)
    assert Counter(found.splits) == {"train": 75, "val": 25, "test": 50, "pretrain": 25}
    assert found.classes == ("x",) and by_split(found)["val"] == {f"{i:03d}.png" for i in range(1, 200, 8)}
    assert "25 images have no split in" in found.notes[-1] and "the first 006.png" in found.notes[-1]
    for given, sentence in [
        ({"test_share": 0.1}, "says who is in the test split, so test_last and test_share do not apply"),
        ({"val_share": 0.1}, "says who is in the val split, so val_share does not apply"),
    ]:
        with pytest.raises(LanitError, match=sentence):
            listing(**options, **given)
    with pytest.raises(LanitError, match="line 2: split is 'tain', but must be train, val, test or pretrain"):
        listing(**crowd("name,x,split", 2, ["tain", *extra[1:]]))
    assert listing(**crowd("name,x,split", 2, ["0", "1"] * 100, classes=["split"], test_last=9)).classes == ("split",)


def test_without_a_column_and_a_rule_the_test_split_is_asked_for(crowd):
    with pytest.raises(LanitError, match="needs either test_last or test_share"):
        listing(**crowd())
    with pytest.raises(LanitError, match="the test split is empty"):
        listing(**crowd("name,x,split", 2, ["train"] * 200))


def test_a_share_of_a_columns_train_may_be_val_and_pretrain(crowd):
    extra = ["train"] * 150 + ["test"] * 50
    before = by_split(listing(**crowd("name,x,split", 2, extra)))
    after = by_split(listing(**crowd("name,x,split", 2, extra, val_share=0.2, pretrain_share=0.2)))
    assert after["test"] == before["test"] and set(after) == {"train", "val", "test", "pretrain"}
    assert after["train"] | after["val"] | after["pretrain"] == before["train"] and 15 < len(after["val"]) < 50


@pytest.mark.parametrize(
    "text",
    ["{}.png {}\n", "{}.png    {}\r\n", "image_id,partition\n{}.png,{}\n", "name;split\n{}.png;{}\n"],
    ids=["list_eval_partition.txt", "its spaces", "Kaggle's", "semicolons"],
)
def test_celebas_partition_decides_the_splits(crowd, tmp_path, text):
    header, _, row = text.rpartition("{}.png")
    lines = "".join(f"{i:03d}.png" + row.format(min(i // 80, 2)) for i in range(180))
    (tmp_path / "list_eval_partition").write_text(header + lines)
    found = listing(**crowd(columns=2, header="name,x", partition=str(tmp_path / "list_eval_partition")))
    assert {split: len(names) for split, names in by_split(found).items()} == {"train": 80, "val": 80, "test": 20}
    assert "20 images have no split" in found.notes[-1] and "the first 180.png" in found.notes[-1]


def test_two_tables_of_splits_are_refused(crowd, tmp_path):
    (tmp_path / "partition.csv").write_text("name,split\n000.png,train\n")
    with pytest.raises(LanitError, match="crowd.csv has the column 'split' and .*partition.csv the column 'split'"):
        listing(**crowd("name,x,split", 2, ["train"] * 200, partition=str(tmp_path / "partition.csv")))


# People


def people(found) -> dict[str, set[str]]:
    """Person → splits, in the crowd."""
    among: dict[str, set[str]] = {}
    for name, split in zip(found.names, found.splits):
        among.setdefault(f"p{int(name[:3]) // 5}", set()).add(split)
    return among


def test_one_person_is_in_one_split(crowd):
    alone = listing(**crowd(columns=3, header="name,x,rare", test_share=0.3, val_share=0.2))
    assert max(len(splits) for splits in people(alone).values()) > 1
    for header in ("name,x,rare,identity", "name,x,rare,group", "name,x,rare,Person_ID"):
        found = listing(**crowd(header, test_share=0.3, val_share=0.2))
        assert {len(splits) for splits in people(found).values()} == {1}
        assert set(found.splits) == {"train", "val", "test"} and found.classes == ("x", "rare")
    with pytest.raises(LanitError, match="test_last would part the images of a group; give test_share"):
        listing(**crowd(test_last=7))


def test_identities_of_a_file_of_their_own_keep_people_together(crowd, tmp_path):
    (tmp_path / "identity_CelebA.txt").write_text("".join(f"{i:03d}.png {1000 + i // 5}\n" for i in range(195)))
    shares = {"test_share": 0.3, "val_share": 0.2}
    found = listing(**crowd("name,x,rare", 3, identities=str(tmp_path / "identity_CelebA.txt"), **shares))
    assert {len(splits) for person, splits in people(found).items() if person != "p39"} == {1}


def test_a_column_of_splits_that_parts_a_person_is_refused(crowd):
    extra = ["train" if i < 148 else "test" for i in range(200)]
    with pytest.raises(LanitError, match="puts 1 groups into more than one split, the first 'p29' into train and test"):
        listing(**crowd("name,x,rare,identity,split", 4, extra))
    extra = ["train" if i < 150 else "test" for i in range(200)]
    assert {len(s) for s in people(listing(**crowd("name,x,rare,identity,split", 4, extra))).values()} == {1}
    shared = listing(**crowd("name,x,rare,identity,split", 4, extra, val_share=0.2))
    assert "val" in shared.splits and {len(splits) for splits in people(shared).values()} == {1}


# Enough of each class


@pytest.mark.parametrize("grouped", [False, True])
def test_a_rare_class_has_its_share_in_every_split(crowd, grouped):
    """8 of 200 images, by chance in few of the splits: each gets its share of them, and train keeps some."""
    options = {} if grouped else {"columns": 3, "header": "name,x,rare"}
    found = listing(**crowd(**options, test_share=0.25, val_share=0.25))
    rare = Counter(split for split, shows in zip(found.splits, found.truth[:, 1]) if shows)
    assert rare["test"] >= 2 and rare["val"] >= 2 and rare["train"] >= 1 and sum(rare.values()) == 8
    assert 0.15 < np.mean([split == "test" for split in found.splits]) < 0.35


# The real thing


def test_real_faces_come_into_the_splits_of_their_partition(tmp_path):
    if not (REAL / "partition.csv").is_file():
        pytest.skip(f"no real faces at {REAL}")
    with tarfile.open(REAL / "val.tar.gz") as archive:
        archive.extractall(tmp_path / "images", filter="data")
    given = {"table": str(REAL / "attributes.csv"), "partition": str(REAL / "partition.csv"), "allow_missing": True}
    found = open_source({"kind": "table", "images": str(tmp_path / "images"), **given}).listing()
    assert Counter(found.splits) == {"val": 1500} and len(found.classes) == 40
    assert int(found.truth[:, found.classes.index("bangs")].sum()) == 200
    identities = read_sheet(REAL / "partition.csv", "").column("identity")
    assert len(identities) == 37_750 and len(set(identities)) == 7_550
