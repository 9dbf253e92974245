"""The shard stage from a source to shards and manifest."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lanit.cli import main
from lanit.config import LanitError, parse
from lanit.data import shard
from lanit.data.listing import key_of
from lanit.data.manifest import COLUMNS, read_card, read_manifest, read_table, read_truth
from lanit.data.tars import stream

CIFAR = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "cifar10" / "test.tar.gz"
REASON = "not a JPEG, PNG, WebP, TIFF, BMP or GIF image, or its header is damaged"


def folders(root: Path, **changes) -> dict:
    source = {"kind": "folders", "root": str(root), "test_last": 4}
    return {"source": source, "size": 16, "shards": {"train": 2, "test": 1}} | changes


def test_the_same_input_gives_the_same_bytes(drawn, tmp_path, faces, run_stage):
    again = run_stage(faces(), tmp_path)
    for path in sorted(drawn.folder.rglob("*.*")):
        assert path.read_bytes() == (again.folder / path.relative_to(drawn.folder)).read_bytes(), path.name


def test_a_val_split_changes_no_byte_of_the_others(tmp_path, faces, run_stage):
    """And lies between train and test in the manifest."""
    without, with_val = faces(), faces(shards={"train": 3, "val": 2, "test": 1, "pretrain": 1})
    for options in (without, with_val):
        options["source"]["splits"]["pretrain"] = {"images": 20, "seed": 3}
    without["shards"]["pretrain"] = 1
    with_val["source"]["splits"]["val"] = {"images": 30, "seed": 4}
    first, second = run_stage(without, tmp_path / "without"), run_stage(with_val, tmp_path / "with")
    tars = sorted(path.name for path in (first.folder / "shards").glob("*.tar"))
    assert len(tars) == 5
    for name in tars:
        assert (first.folder / "shards" / name).read_bytes() == (second.folder / "shards" / name).read_bytes(), name
    for split in ("train", "test", "pretrain"):
        assert read_manifest(first.manifest, split).equals(read_manifest(second.manifest, split))
        assert read_truth(first.manifest, split).equals(read_truth(second.manifest, split))
    assert len(read_manifest(second.manifest, "val")) == 30
    assert list(dict.fromkeys(read_table(second.manifest)["split"].to_pylist())) == ["train", "val", "test", "pretrain"]


def test_offsets_and_digests_locate_the_png_bytes(drawn):
    for split in ("train", "test"):
        for row in read_manifest(drawn.manifest, split).itertuples():
            data = drawn.tar(split, row.shard).read_bytes()[row.offset : row.offset + row.size]
            assert hashlib.sha256(data).hexdigest() == row.sha256
            with tarfile.open(drawn.tar(split, row.shard)) as tar:
                assert tar.extractfile(f"{row.key}.png").read() == data


def test_members_carry_neither_time_nor_person(drawn):
    with tarfile.open(drawn.tar("test")) as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar} == {(0, 0, 0, "lanit", "lanit", 0o444)}


def test_a_shard_holds_png_members_alone_in_the_manifests_order(drawn):
    rows = read_manifest(drawn.manifest, "train")
    names = []
    for i in range(3):
        with tarfile.open(drawn.tar("train", i)) as tar:
            names += tar.getnames()
    assert names == [f"{key}.png" for key in rows["key"]]


def test_streaming_gives_what_the_source_drew(drawn):
    from lanit.data.faces import DrawnFaces

    draw = DrawnFaces(images=30, seed=2, probability=0.5)
    found = dict(stream(drawn.tar("test")))
    assert len(found) == 30
    for i, row in enumerate(draw.truth()):
        assert np.array_equal(found[key_of(f"test/{i:06d}")], draw.image(i, row, 32))


def test_truth_is_out_of_reach_of_the_manifests_reader(drawn):
    assert any(name.startswith("truth:") for name in read_table(drawn.manifest).column_names), "truth is in the file"
    assert tuple(read_manifest(drawn.manifest, "train").columns) == COLUMNS
    assert "truth" not in " ".join(COLUMNS) and "name" not in COLUMNS


def test_truth_follows_the_manifests_rows(drawn):
    from lanit.data.faces import ATTRIBUTES, DrawnFaces

    truth = read_truth(drawn.manifest, "train")
    assert list(truth.columns) == ["key", *ATTRIBUTES]
    assert truth["key"].tolist() == read_manifest(drawn.manifest, "train")["key"].tolist()
    expected = {key_of(f"train/{i:06d}"): row for i, row in enumerate(DrawnFaces(40, 1, 0.5).truth())}
    assert all((expected[row.key] == np.array(row[2:])).all() for row in truth.itertuples())


def test_shards_differ_by_at_most_one_image_and_mix_the_classes(tmp_path, save, run_stage):
    for folder in ("a", "b"):
        for i in range(54):
            save(f"in/{folder}/{i:02d}.png", Image.new("L", (9, 9), i))
    dataset = run_stage(folders(tmp_path / "in", shards={"train": 3, "test": 3}), tmp_path / "out")
    for split, sizes in (("train", {33, 34}), ("test", {2, 3})):
        assert set(Counter(read_manifest(dataset.manifest, split)["shard"]).values()) <= sizes
    train = read_manifest(dataset.manifest, "train").merge(read_truth(dataset.manifest, "train"))
    assert train.groupby("shard")["a"].mean().between(0.25, 0.75).all()


def test_the_card_describes_the_dataset(drawn, animals, tmp_path, run_stage):
    card = read_card(drawn.folder / "dataset.json")
    assert (card.size, card.exclusive, card.quarantined, card.name) == (32, False, 0, None)
    assert card.splits["train"].images == 40 and card.splits["train"].shards == 3
    animals = read_card(run_stage(folders(animals, name="animals"), tmp_path / "out").folder / "dataset.json")
    assert animals.classes == ("cat", "wild dog") and animals.exclusive and animals.name == "animals"
    assert "16x16" in animals.resize and "Lanczos" in animals.resize


def test_a_damaged_image_is_listed_with_its_reason_and_left_out(animals, tmp_path, run_stage):
    (animals / "cat" / "01.png").write_bytes(b"nonsense")
    dataset = run_stage(folders(animals, max_damaged=0.05), tmp_path / "out")
    with open(dataset.quarantine) as file:
        assert list(csv.DictReader(file)) == [{"split": "train", "name": "cat/01.png", "reason": REASON}]
    assert key_of("cat/01.png") not in set(read_manifest(dataset.manifest, "train")["key"])
    card = read_card(dataset.folder / "dataset.json")
    assert card.quarantined == 1 and card.splits["train"].images == 11


def test_too_many_damaged_images_stop_the_run_and_the_list_survives(animals, tmp_path, run_stage):
    for i in (0, 3):
        (animals / "cat" / f"{i:02d}.jpg").write_bytes(b"")
    with pytest.raises(LanitError) as error:
        run_stage(folders(animals, max_damaged=0.05), tmp_path / "out")
    survivor = tmp_path / "out" / "quarantine.stopped.csv"
    assert "2 of 20 images (10.0%) are damaged, more than the limit max_damaged = 0.05" in str(error.value)
    assert str(survivor) in str(error.value)
    assert [row["name"] for row in csv.DictReader(survivor.read_text().splitlines())] == ["cat/00.jpg", "cat/03.jpg"]
    assert not (tmp_path / "out" / "manifest.parquet").exists()
    run_stage(folders(animals, max_damaged=0.1), tmp_path / "out")
    assert not survivor.exists(), "a run that goes well removes the list of the one that stopped"


def test_a_class_whose_images_are_all_damaged_stops_the_run(animals, tmp_path, run_stage):
    for i in range(6, 10):
        next((animals / "cat").glob(f"{i:02d}.*")).write_bytes(b"")
    with pytest.raises(LanitError, match="every image of the class 'cat' in the test split is damaged"):
        run_stage(folders(animals, max_damaged=0.9), tmp_path / "out")


def test_a_shard_of_damaged_images_alone_stops_the_run(animals, tmp_path, run_stage):
    for path in (animals / "cat").glob("0[6-9].*"):
        path.write_bytes(b"")
    with pytest.raises(LanitError, match="shard . of split test has only damaged images"):
        run_stage(folders(animals, shards={"train": 1, "test": 8}, max_damaged=0.9), tmp_path / "out")


def test_a_picture_in_two_splits_is_said(animals, tmp_path, capsys, run_stage):
    shutil.copy(animals / "cat" / "00.jpg", animals / "cat" / "99.jpg")
    run_stage(folders(animals), tmp_path / "out")
    assert "1 images are in two splits under two names, the first cat/" in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"shards": {"train": 3}}, "shards lacks the split 'test'"),
        ({"shards": {"train": 3, "test": 31}}, "shards.test = 31 is more than the 30 images of the split"),
        ({"shards": {"train": 3, "test": 0}}, "shards.test must be at least 1"),
        ({"shards": {"train": 3, "test": 1, "pretrain": 1}}, "shards has the split 'pretrain', which the source lacks"),
        ({"size": 4}, "size must lie between"),
        ({"max_damaged": 1.5}, "max_damaged is a share"),
    ],
)
def test_mistakes_in_the_options_stop_the_plan(changes, sentence, tmp_path, faces):
    with pytest.raises(LanitError, match=sentence):
        shard.plan(parse(shard.ShardOptions, faces(**changes)), tmp_path / "plan.parquet")
    assert not (tmp_path / "plan.parquet").exists()


def test_a_plan_is_refused_with_other_options(drawn, tmp_path, faces):
    other = parse(shard.ShardOptions, faces(size=64))
    with pytest.raises(LanitError, match="was made with other options; run shard plan again"):
        shard.write(drawn.folder / "plan.parquet", other, "train", 0, tmp_path / "t.tar", tmp_path / "t.parquet")


def test_a_shard_that_is_not_planned_is_refused(drawn, tmp_path, faces):
    options = parse(shard.ShardOptions, faces())
    with pytest.raises(LanitError, match="has no shard 7 of split 'train'"):
        shard.write(drawn.folder / "plan.parquet", options, "train", 7, tmp_path / "t.tar", tmp_path / "t.parquet")


def test_a_missing_index_is_named(drawn, tmp_path):
    indices = [drawn.tar("train", i).with_suffix(".parquet") for i in range(3)]
    with pytest.raises(LanitError, match="no index given has the images of shard 0 of split test"):
        shard.index(drawn.folder / "plan.parquet", indices, tmp_path / "m", tmp_path / "q.csv", tmp_path / "c")


def test_files_that_are_missing_or_something_else_are_named(drawn, tmp_path):
    with pytest.raises(LanitError, match="no file at .*none.parquet"):
        read_manifest(tmp_path / "none.parquet", "train")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(LanitError, match="text.parquet is not what lanit shard wrote"):
        read_manifest(tmp_path / "text.parquet", "train")
    with pytest.raises(LanitError, match="has no split 'valid'; it has train, test"):
        read_manifest(drawn.manifest, "valid")
    with pytest.raises(LanitError, match="no dataset card at"):
        read_card(tmp_path / "none.json")
    with pytest.raises(LanitError, match="no shard at"):
        next(stream(tmp_path / "none.tar"))


def test_a_tar_that_was_cut_off_is_named(drawn, tmp_path):
    data = drawn.tar("test").read_bytes()
    begins = read_manifest(drawn.manifest, "test")["offset"].iloc[9]
    for end in (begins + 40, begins - 100, begins - 512, 0):  # in an image, in a header, between two members, at once
        (tmp_path / "cut.tar").write_bytes(data[:end])
        with pytest.raises(LanitError, match="cut.tar is not a complete shard"):
            list(stream(tmp_path / "cut.tar"))


def test_the_stage_runs_from_the_command_line(animals, tmp_path, capsys):
    options = json.dumps(folders(animals, shards={"train": 1, "test": 1}))
    plan = str(tmp_path / "plan.parquet")
    assert main(["shard", "plan", "--options", options, "--output", plan]) == 0
    indices = []
    for split in ("train", "test"):
        indices.append(str(tmp_path / f"{split}-0.parquet"))
        write = ["shard", "write", "--plan", plan, "--options", options, "--split", split, "--shard", "0"]
        assert main([*write, "--output", str(tmp_path / "shards" / f"{split}-0.tar"), "--index", indices[-1]]) == 0
    outputs = [f"--{n}={tmp_path / n}" for n in ("manifest", "quarantine", "card")]
    assert main(["shard", "index", "--plan", plan, "--indices", *indices, *outputs]) == 0
    assert len(read_manifest(tmp_path / "manifest", "train")) == 12

    shutil.rmtree(animals / "cat")
    assert main(["shard", "plan", "--options", options.replace("animals", "nowhere"), "--output", plan]) == 2
    assert capsys.readouterr().err.startswith("lanit shard: error: no folder at ")


def test_real_photos_become_shards(tmp_path, run_stage):
    if not CIFAR.is_file():
        pytest.skip(f"no real photos at {CIFAR}")
    with tarfile.open(CIFAR) as archive:
        taken: Counter = Counter()
        for member in archive:
            folder = member.name.split("/")[1] if member.isfile() else ""
            if folder and taken[folder] < 12:
                taken[folder] += 1
                archive.extract(member, tmp_path, filter="data")
    dataset = run_stage(folders(tmp_path / "test", size=32), tmp_path / "out")
    card = read_card(dataset.folder / "dataset.json")
    assert len(card.classes) == 10 and card.quarantined == 0
    assert card.splits["train"].images == 80 and card.splits["test"].images == 40
    truth = read_truth(dataset.manifest, "test").set_index("key")
    assert (truth.sum() == 4).all()
    found = dict(stream(dataset.tar("test")))
    photo = sorted((tmp_path / "test" / "airplane").iterdir())[-1]
    key = key_of(f"airplane/{photo.name}")
    assert truth.loc[key, "airplane"] and np.array_equal(found[key], np.asarray(Image.open(photo).convert("RGB")))
