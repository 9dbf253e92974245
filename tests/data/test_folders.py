"""Folders as people have them: odd names, links, other kinds, what desktops leave; nothing is lost without a word."""

from __future__ import annotations

import csv
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from listed import by_split, listing
from PIL import Image

from lanit.cli import main
from lanit.config import LanitError
from lanit.data.listing import key_of, keys_of
from lanit.data.manifest import read_manifest, read_table, read_truth
from lanit.data.names import shown
from lanit.data.sources import open_source
from lanit.data.tars import stream

ODD = [
    "Screenshot 2024-05-01 at 9.41.05\u202fPM.png",  # macOS
    "\u5199\u771f\u30001.png",  # an ideographic space
    "\U0001f469\u200d\U0001f469\u200d\U0001f467.png",  # joined emoji
    "caf\udce9.png",  # a byte of Latin-1
    "a\nb.png",
    "back\\slash.png",
    " leading and trailing .png",
    "right\u202eleft.png",
    "quote'\"$(x).png",
    "e\u0301.png",
    "\u00e9.png",  # the same letter, another file
    "-n.png",
    "{x}.png",
]


def options(root: Path, **source) -> dict:
    source = {"kind": "folders", "root": str(root), "test_last": 3} | source
    return {"source": source, "size": 16, "shards": {"train": 1, "test": 1}}


def photos(root: Path, **source):
    return listing(kind="folders", root=str(root), **{"test_last": 2} | source)


# Names


def test_any_file_name_is_accepted_from_the_plan_to_the_manifest(save, tmp_path, run_stage, capsys):
    pixels = {}
    for i, name in enumerate(ODD):
        pixels[f"cat/{name}"] = 10 + i
        save(f"odd/cat/{name}", Image.new("L", (20, 20), 10 + i))
    (tmp_path / "odd" / "cat" / "broken \udcff.png").write_bytes(b"nonsense")
    for i in range(6):
        pixels[f"dog/{i}.png"] = 100 + i
        save(f"odd/dog/{i}.png", Image.new("L", (20, 20), 100 + i))
    dataset = run_stage(options(tmp_path / "odd") | {"max_damaged": 0.1}, tmp_path / "out")
    capsys.readouterr()
    found = {key: image for split in ("train", "test") for key, image in stream(dataset.tar(split))}
    assert len(found) == len(ODD) + 6
    for name, value in pixels.items():
        assert (found[key_of(name)] == value).all(), shown(name)
    names = read_table(dataset.manifest, ["name"])["name"].to_pylist()
    assert set(names) == {shown(name) if "\udce9" in name else name for name in pixels}
    assert r"cat/caf\xe9.png" in names
    with open(dataset.quarantine) as file:
        assert [row["name"] for row in csv.DictReader(file)] == [r"cat/broken \xff.png"]


def test_a_name_is_the_same_in_every_locale(save, tmp_path):
    """Bytes of a name, not what a locale makes of them, decide its key and its split."""
    for name in ("\u00e9t\u00e9.png", "caf\udce9.png", "plain.png", "z.png"):
        save(f"in/cat/{name}"), save(f"in/dog/{name}")
    code = (
        "import sys, json; print(sys.getfilesystemencoding(), file=sys.stderr);"
        "from lanit.data.sources import open_source; from lanit.data.listing import keys_of;"
        "s = open_source({'kind': 'folders', 'root': sys.argv[1], 'test_share': 0.5}); l = s.listing();"
        "[s.read(n, 8) for n in l.names]; print(json.dumps([keys_of(l.names), l.splits, l.names]))"
    )
    said = []
    for locale in ("C.UTF-8", "C"):  # of which the second has ASCII alone
        environment = os.environ | {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        command = [sys.executable, "-c", code, str(tmp_path / "in")]
        said.append(subprocess.run(command, env=environment, capture_output=True, check=True))
    assert [run.stderr.split() for run in said] == [[b"utf-8"], [b"ascii"]]
    assert said[0].stdout == said[1].stdout and b"udce9" in said[0].stdout


def test_files_that_differ_in_their_suffix_alone_are_all_taken(animals, save, tmp_path, capsys):
    save("animals/cat/00.png"), save("animals/cat/00.gif")
    found = photos(animals)
    assert {"cat/00.jpg", "cat/00.png", "cat/00.gif"} <= set(found.names)
    keys = dict(zip(found.names, keys_of(found.names)))
    assert keys["cat/00.png"] != keys["cat/00.jpg"] and keys["cat/01.png"] == key_of("cat/01")
    shares = dict(zip(found.names, photos(animals, test_last=None, test_share=0.5).splits))
    assert shares["cat/00.jpg"] == shares["cat/00.png"] == shares["cat/00.gif"], "copies stay in one split"


def test_class_names_are_the_same_however_their_accents_are_written(save, tmp_path):
    apart, joined = "cafe\u0301_noir", "caf\u00e9_noir"
    for i in range(4):
        save(f"a/{apart}/{i}.png"), save(f"b/{joined}/{i}.png")
        save(f"a/th\udce9/{i}.png"), save(f"b/th\u00e9/{i}.png")
    given = {"kind": "folders", "train": str(tmp_path / "a"), "test": str(tmp_path / "b")}
    found = listing(**given)
    assert found.classes == ("caf\u00e9 noir", "th\u00e9") and set(found.splits) == {"train", "test"}
    source = open_source(given)
    assert all(source.read(name, 8).shape == (8, 8, 3) for name in found.names)
    chosen = listing(**given, classes=[apart], names={joined: "mocha\u0301"})
    assert chosen.classes == ("moch\u00e1",)
    save(f"a/{joined}/9.png")
    with pytest.raises(LanitError, match="two folders of the name 'caf\u00e9_noir', written in different ways"):
        listing(**given)


# What is no image


def test_files_of_other_kinds_are_counted_and_named_by_kind(animals, save, tmp_path, capsys, without_heic):
    for name in ("IMG_1.HEIC", "IMG_2.heic", "clip.mp4", "notes.txt", "raw", ".DS_Store", "deep/a.mp4"):
        (animals / "cat" / name).parent.mkdir(exist_ok=True)
        (animals / "cat" / name).write_bytes(b"...")
    save("animals/loose.png")
    assert main(["shard", "plan", "--options", json.dumps(options(animals)), "--output", str(tmp_path / "plan")]) == 0
    said = capsys.readouterr()
    assert "20 images: train 14, test 6" in said.out
    for part in (
        ".heic (the first cat/IMG_1.HEIC)",
        "2 .mp4 (the first cat/clip.mp4)",
        "1 .txt (the first cat/notes.txt)",
        "1 without a suffix (the first cat/raw)",
        "1 hidden files (the first cat/.DS_Store)",
        "1 images lie in",
    ):
        assert said.err.count(part) == 1, said.err
    assert "; HEIC is read where the package pillow-heif is installed" in said.err


def test_a_class_of_other_kinds_alone_is_refused_by_their_names(animals, without_heic):
    (animals / "bird").mkdir()
    for i in range(3):
        (animals / "bird" / f"IMG_{i}.HEIC").write_bytes(b"...")
    with pytest.raises(LanitError, match=r"bird holds no JPEG.* image \(left out of .*bird: 3 \.heic .*pillow-heif is"):
        photos(animals)


def test_images_of_every_kind_that_is_read_are_taken(animals, save):
    for suffix in ("jfif", "bmp", "tif", "TIFF", "gif", "jpe"):
        save(f"animals/cat/{suffix}.{suffix}")
    assert len(photos(animals).names) == 26


def test_hidden_and_system_folders_are_not_searched_and_said(animals, save):
    for folder in (".ipynb_checkpoints", ".thumbnails", "@eaDir", "__MACOSX", "deep/.thumbnails"):
        save(f"animals/cat/{folder}/01.png")
    for folder in (".git", "@eaDir", "__MACOSX"):
        save(f"animals/{folder}/1.png")
    found = photos(animals)
    assert len(found.names) == 20 and found.classes == ("cat", "wild dog")
    (note,) = found.notes
    assert "hidden and system folders" in note and ".thumbnails (2, the first cat/.thumbnails)" in note
    assert "@eaDir (1, " in note and "__MACOSX (1, " in note


def test_a_pipe_a_socket_and_a_device_among_the_images_are_named_and_never_waited_for(animals, monkeypatch):
    os.mkfifo(animals / "cat" / "pipe.png")
    (animals / "cat" / "device.png").symlink_to("/dev/zero")
    monkeypatch.chdir(animals / "cat")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
        found = []
        thread = threading.Thread(target=lambda: found.append(photos(animals)), daemon=True)
        thread.start()
        thread.join(20)
    assert len(found) == 1 and len(found[0].names) == 20
    assert "3 pipes, sockets or devices (the first cat/device.png)" in found[0].notes[0]


def test_a_folder_that_cannot_be_listed_is_named(animals, monkeypatch):
    (animals / "cat" / "locked").mkdir()
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "locked":  # root, who may run this, may list every folder
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(LanitError, match=r"cat/locked cannot be listed \(Permission denied\); make it readable"):
        photos(animals)


# Links


def test_a_linked_folder_is_searched(animals, save, tmp_path, run_stage):
    for i in range(12):
        save(f"disk2/cats/c{i}.png"), save(f"disk2/cats/more/d{i}.png")
    (animals / "cat" / "batch2").symlink_to(tmp_path / "disk2" / "cats")
    found = photos(animals)
    assert {"cat/batch2/c0.png", "cat/batch2/more/d11.png"} <= set(found.names) and len(found.names) == 44
    dataset = run_stage(options(animals), tmp_path / "out")
    assert len(read_manifest(dataset.manifest, "train")) + len(read_manifest(dataset.manifest, "test")) == 44


def test_links_that_lead_back_are_left_out_and_said(animals, save, tmp_path):
    save("disk2/x.png")
    (tmp_path / "disk2" / "round").symlink_to(tmp_path / "disk2")
    for name, target in {
        "up": animals,
        "further up": tmp_path,
        "the other class": animals / "wild_dog",
        "self": animals / "cat",
        "new": tmp_path / "disk2",
        "new again": tmp_path / "disk2",
    }.items():
        (animals / "cat" / name).symlink_to(target)
    found = photos(animals)
    assert sorted(name for name in found.names if name not in photos_of(animals)) == ["cat/new/x.png"]
    assert len(found.names) == 21 and len(found.notes) == 1
    assert "6 linked folders in" in found.notes[0] and "lead to folders that are searched anyway" in found.notes[0]


def photos_of(root: Path) -> set[str]:
    return {f"{folder}/{path.name}" for folder in ("cat", "wild_dog") for path in (root / folder).iterdir()}


def test_a_class_folder_may_be_a_link_but_not_to_another_one(animals, save, tmp_path):
    for i in range(5):
        save(f"disk2/birds/{i}.png")
    (animals / "bird").symlink_to(tmp_path / "disk2" / "birds")
    assert photos(animals).classes == ("bird", "cat", "wild dog")
    (animals / "kitty").symlink_to(animals / "cat")
    with pytest.raises(LanitError, match="the class folders .*cat and .*kitty are the same folder; remove the link"):
        photos(animals)
    (tmp_path / "test").mkdir()
    for name in ("cat", "wild_dog"):
        (tmp_path / "test" / name).symlink_to(animals / name)
    with pytest.raises(LanitError, match="are the same folder"):
        listing(
            kind="folders", train=str(animals), test=str(tmp_path / "test"), classes=["cat", "wild_dog"]
        )  # images of both splits


def test_dead_links_are_named_in_the_plan_and_count_as_damaged(animals, tmp_path, run_stage, capsys):
    target = tmp_path / "unplugged" / "01.png"
    (animals / "cat" / "99.png").symlink_to(target)
    dataset = run_stage(options(animals) | {"max_damaged": 0.1}, tmp_path / "out")
    said = capsys.readouterr().err
    assert said.count("1 images in") == 1 and "are dead links, the first cat/99.png: they count as damaged" in said
    assert "1 of 21 images are damaged and left out" in said
    with open(dataset.quarantine) as file:
        (row,) = csv.DictReader(file)
    assert row["reason"] == f"a dead link: nothing is at {target}"


# Splits


def test_a_root_of_splits_is_no_root_of_classes(animals, tmp_path):
    for split in ("train", "test", "val"):
        (tmp_path / "whole" / split).mkdir(parents=True)
        (tmp_path / "whole" / split / "cat").symlink_to(animals / "cat")
    with pytest.raises(LanitError, match="in place of root, give source train: .*whole/train, val: .*, test: "):
        photos(tmp_path / "whole")


def test_a_share_leaves_no_class_without_test_images(save, tmp_path):
    """40 pictures a class and a tenth: by chance alone a class has none; it has its share, and train the rest."""
    for c in range(12):
        for i in range(40):
            save(f"forty/c{c:02d}/{i}.png", Image.new("L", (1, 1)))
    found = photos(tmp_path / "forty", test_last=None, test_share=0.1, val_share=0.1)
    splits = np.array(found.splits)
    for c in range(12):
        counts = {split: int((splits[found.truth[:, c]] == split).sum()) for split in ("train", "val", "test")}
        assert counts["test"] >= 4 and counts["val"] >= 4 and counts["train"] >= 20, counts
    few = by_split(photos(tmp_path / "forty", test_last=None, test_share=0.1, classes=["c00"]))
    assert few["test"] == {name for name in by_split(found)["test"] if name.startswith("c00/")}


# The same picture twice


def test_a_picture_of_two_classes_is_said(animals, tmp_path, run_stage, capsys):
    pixels = (animals / "cat" / "00.jpg").read_bytes()
    (animals / "wild_dog" / "00.jpg").write_bytes(pixels)
    dataset = run_stage(options(animals), tmp_path / "out")
    said = capsys.readouterr().err
    assert said.count("1 images are there twice and their classes differ, the first ") == 1
    assert read_truth(dataset.manifest, "train").drop(columns="key").sum().tolist() == [7, 7]
