"""Sources: names, splits and truth before a pixel is read, and every kind of mistake said in one sentence."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from listed import by_split, listing
from PIL import Image

from lanit.config import LanitError
from lanit.data.sources import open_source


@pytest.fixture
def given(animals, tmp_path):
    """The same class folders as train and as test."""
    shutil.copytree(animals, tmp_path / "held-out")
    return {"kind": "folders", "train": str(animals), "test": str(tmp_path / "held-out")}


# Splits by rule


def test_the_last_k_of_each_class_are_the_test_split(animals):
    splits = by_split(listing(kind="folders", root=str(animals), test_last=2))
    assert splits["test"] == {"cat/08.webp", "cat/09.jpg", "wild_dog/08.webp", "wild_dog/09.jpg"}
    assert len(splits["train"]) == 16 and not splits["train"] & splits["test"]


def test_a_share_is_the_same_again_and_does_not_move_an_image_when_others_come(animals, save):
    for i in range(10, 80):
        save(f"animals/wild_dog/{i:02d}.png", Image.new("L", (1, 1)))
        save(f"animals/cat/{i:02d}.png", Image.new("L", (1, 1)))
    before = by_split(listing(kind="folders", root=str(animals), test_share=0.4, pretrain_share=0.2))
    for i in range(80, 300):
        save(f"animals/cat/{i:02d}.png", Image.new("L", (1, 1)))
    after = by_split(listing(kind="folders", root=str(animals), test_share=0.4, pretrain_share=0.2))
    assert all(before[split] <= after[split] for split in ("train", "test", "pretrain"))
    assert sum(len(names) for names in after.values()) == 380
    assert 0.3 < len(after["test"]) / 380 < 0.5 and 0.12 < len(after["pretrain"]) / 380 < 0.28


@pytest.mark.parametrize("rule", [{"test_last": 8}, {"test_share": 0.2}], ids=["last", "share"])
def test_a_val_share_is_taken_from_train_alone(animals, save, rule):
    for i in range(10, 200):
        save(f"animals/cat/{i:03d}.png", Image.new("L", (1, 1)))
        save(f"animals/wild_dog/{i:03d}.png", Image.new("L", (1, 1)))
    before = by_split(listing(kind="folders", root=str(animals), pretrain_share=0.1, **rule))
    after = by_split(listing(kind="folders", root=str(animals), pretrain_share=0.1, val_share=0.3, **rule))
    assert set(after) == {"train", "val", "test", "pretrain"}
    assert after["test"] == before["test"] and after["pretrain"] == before["pretrain"]
    assert after["train"] | after["val"] == before["train"] and not after["train"] & after["val"]
    assert 0.2 < len(after["val"]) / 400 < 0.4


def test_a_val_split_is_a_folder_or_a_share_of_the_folder_train(given, animals, tmp_path):
    shared = by_split(listing(**given, val_share=0.4))
    assert shared["test"] == by_split(listing(**given))["test"] and 2 < len(shared["val"]) < 14
    assert all(name.startswith("train/") for name in shared["val"]) and len(shared["val"] | shared["train"]) == 20
    source = open_source(given | {"val_share": 0.4})
    assert source.read(sorted(shared["val"])[0], 16).shape == (16, 16, 3)
    shutil.copytree(animals, tmp_path / "chosen-on")
    folder = by_split(listing(**given, val=str(tmp_path / "chosen-on")))
    assert {split: len(names) for split, names in folder.items()} == {"train": 20, "val": 20, "test": 20}
    with pytest.raises(LanitError, match="gives the folder val, so val_share does not apply"):
        listing(**given, val=str(tmp_path / "chosen-on"), val_share=0.4)


def test_given_folders_are_the_splits_and_underscores_become_spaces(given):
    found = listing(**given)
    assert found.exclusive and found.classes == ("cat", "wild dog")
    assert {split: len(names) for split, names in by_split(found).items()} == {"train": 20, "test": 20}
    assert found.truth.sum(axis=1).tolist() == [1] * 40
    true = [found.classes[row.argmax()] for row in found.truth]
    assert true == [name.split("/")[1].replace("_", " ") for name in found.names]


def test_classes_are_chosen_ordered_and_renamed(given):
    found = listing(**given, classes=["wild_dog", "cat"], names={"wild_dog": "dingo"})
    assert found.classes == ("dingo", "cat")
    assert found.truth[[n.startswith("train/wild_dog/") for n in found.names]].tolist() == [[True, False]] * 10
    assert listing(**given, classes=["cat"]).truth.shape == (20, 1)


def test_other_files_are_ignored(animals, tmp_path):
    (animals / "cat" / "notes.txt").write_text("no image")
    (animals / "cat" / ".00.jpg").write_bytes(b"hidden")
    (animals / ".git").mkdir()
    assert len(listing(kind="folders", root=str(animals), test_last=2).names) == 20


# Mistakes in folders


def test_a_missing_directory_says_what_goes_there(given, tmp_path):
    with pytest.raises(LanitError, match="no folder at .*none: put the test images .* there, one folder per class"):
        listing(**given | {"test": str(tmp_path / "none")})


def test_a_class_in_one_split_alone_is_refused(given, animals):
    shutil.rmtree(animals / "cat")
    with pytest.raises(LanitError, match=r"class folder 'cat' is missing in .*animals \(train\), which has wild_dog"):
        listing(**given)


def test_a_wanted_class_without_a_folder_is_refused(animals):
    with pytest.raises(LanitError, match="the class folder 'bird' is missing"):
        listing(kind="folders", root=str(animals), test_last=2, classes=["cat", "bird"])


def test_a_class_folder_without_images_is_refused(animals):
    (animals / "bird").mkdir()
    (animals / "bird" / "readme.txt").write_text("soon")
    with pytest.raises(LanitError, match="bird holds no JPEG, PNG, WebP, TIFF, BMP or GIF image"):
        listing(kind="folders", root=str(animals), test_last=2)


def test_splits_from_one_folder_are_refused(given, animals, tmp_path):
    with pytest.raises(LanitError, match="are the same folder; images would be in both"):
        listing(**given | {"test": str(animals / ".." / "animals")})
    with pytest.raises(LanitError, match="lie in each other"):
        listing(**given | {"train": str(tmp_path)})


def test_a_class_too_small_for_the_rule_is_refused(animals):
    with pytest.raises(LanitError, match="cat has 10 images, so test_last = 10 leaves none to train on"):
        listing(kind="folders", root=str(animals), test_last=10)


@pytest.mark.parametrize(
    "source, sentence",
    [
        ({"kind": "folder"}, "source.kind must be one of faces, folders, table, not 'folder'"),
        ({"kind": "folders"}, "needs the folders train and test, or root"),
        ({"kind": "folders", "root": "x"}, "needs either test_last or test_share"),
        ({"kind": "folders", "root": "x", "test_last": 1, "test_share": 0.1}, "needs either test_last or test_share"),
        ({"kind": "folders", "root": "x", "train": "y", "test": "z"}, "both root and split folders"),
        ({"kind": "folders", "train": "y", "test": "z", "test_last": 3}, "do not apply"),
        ({"kind": "folders", "root": "x", "test_share": 0.7, "pretrain_share": 0.4}, "must lie between 0 and 1"),
        (
            {"kind": "folders", "root": "x", "test_share": 0.5, "val_share": 0.5},
            "test_share 0.5 and val_share 0.5 must",
        ),
        ({"kind": "folders", "train": "y", "test": "z", "val_share": 1.0}, "source.val_share 1 must lie between"),
        ({"kind": "folders", "root": "x", "test_last": 0}, "at least 1"),
        ({"kind": "folders", "root": "x", "test_last": 1, "max_pixels": 0}, "source.max_pixels must be at least 1"),
        ({"kind": "folders", "rot": "x"}, "unknown key 'rot'; did you mean 'root'"),
        ({"kind": "faces", "splits": {"train": {"images": 1, "seed": 1}}}, "lacks 'test'"),
    ],
)
def test_options_that_contradict_each_other_are_refused(source, sentence):
    with pytest.raises(LanitError, match=sentence):
        listing(**source)


def test_two_splits_of_faces_need_two_seeds():
    splits = {"train": {"images": 9, "seed": 1}, "test": {"images": 9, "seed": 1}}
    with pytest.raises(LanitError, match="the same seed, so the same faces"):
        open_source({"kind": "faces", "splits": splits})


def test_faces_know_their_truth():
    splits = {"test": {"images": 60, "seed": 4}, "train": {"images": 90, "seed": 1}}
    found = listing(kind="faces", splits=splits)
    assert found.splits == ["train"] * 90 + ["test"] * 60 and not found.exclusive
    blue = found.truth[:, found.classes.index("blue background")] & ~found.truth[:, found.classes.index("purple frame")]
    source = open_source({"kind": "faces", "splits": splits})
    for i in np.flatnonzero(blue)[:10]:
        red, _, blueness = source.read(found.names[i], 32)[16, 0].astype(int)
        assert blueness - red > 100
