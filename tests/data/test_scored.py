"""What could not be scored is said before anything runs, with the setting that would do."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from lanit.cli import main
from lanit.config import LanitError, digest, parse
from lanit.data import shard
from lanit.data.manifest import read_card, read_truth
from lanit.data.scored import Scored, check_card, check_pairs, check_scored
from lanit.data.shard import ShardOptions

COUNTS = {"train": {"cat": 36, "wild dog": 30}, "test": {"cat": 4, "wild dog": 10}}
SHARE = {"kind": "folders", "root": "x", "test_share": 0.1}


LAST = {"kind": "folders", "root": "x", "test_last": 4}
NEED = "where density and coverage with their k = {} nearest neighbours need {}: "


@pytest.mark.parametrize(
    "scored, source, sentence",
    [
        ({"classes": ("cat", "wild dag")}, SHARE,
         "the evaluation class 'wild dag' is none of the source's; did you mean 'wild dog'?"),
        ({"classes": ("cat", "yacht")}, SHARE,
         "the evaluation class 'yacht' is none of the source's; it has cat, wild dog"),
        ({"classes": ("cat",)}, SHARE,
         "cat is the only evaluation class; name two at least, between which to translate"),
        ({"split": "val"}, SHARE, "evaluate.split is 'val', which the source does not have; it has train, test"),
        ({}, SHARE, "the test split has 4 images of 'cat', " + NEED.format(5, 6)
         + "raise source.test_share to 0.15, or lower evaluate.k to 3"),
        ({"k": 12}, SHARE, "the test split has 4 images of 'cat' (and too few of 1 more classes), "
         + NEED.format(12, 13) + "raise source.test_share to 0.33, or lower evaluate.k to 3"),
        ({"k": 30}, SHARE, "need 31: add images, or lower evaluate.k to 3"),
        ({}, LAST, ": raise source.test_last to 6, or lower evaluate.k to 3"),
        ({}, LAST | {"kind": "table"}, ": raise source.test_last, or lower evaluate.k to 3"),
        ({}, {"kind": "folders", "train": "x", "test": "y"}, ": add images, or lower evaluate.k to 3"),
        ({}, {"kind": "faces", "splits": {}}, ": raise source.splits.test.images, or lower evaluate.k to 3"),
    ],
)  # fmt: skip
def test_what_cannot_be_scored_is_named_with_what_would_do(scored, source, sentence):
    with pytest.raises(LanitError) as error:
        check_scored(Scored(**{"classes": ("cat", "wild dog")} | scored), COUNTS, source)
    assert str(error.value).endswith(sentence)


def test_what_can_be_scored_is_let_through():
    check_scored(Scored(("cat", "wild dog"), k=3), COUNTS, SHARE)
    accents = {"test": {"caf\u00e9": 9, "cat": 9}}
    check_scored(Scored(("cafe\u0301", "cat")), accents, SHARE)


def test_a_class_that_all_of_the_others_show_too_is_no_target():
    truth = np.array([[1, 0, 1], [0, 1, 1], [0, 0, 0]], bool)
    check_pairs(Scored(("a", "b")), truth, ["a", "b", "young"])
    with pytest.raises(LanitError, match="no image of another evaluation class without 'young'"):
        check_pairs(Scored(("a", "young", "b")), truth, ["a", "b", "young"])


def test_the_setting_that_is_named_is_enough(save, tmp_path, capsys):
    """40 pictures a class and a tenth of them, as one begins; with what the sentence says, the plan is made."""
    for folder in ("cat", "dog"):
        for i in range(40):
            save(f"in/{folder}/{i}.png", Image.new("L", (1, 1)))
    options = {"source": SHARE | {"root": str(tmp_path / "in")}, "size": 16, "shards": {"train": 1, "test": 1}}
    plan = ["shard", "plan", "--output", str(tmp_path / "plan"), "--scored", json.dumps({"classes": ["cat", "dog"]})]
    assert main([*plan, "--options", json.dumps(options)]) == 2
    assert not (tmp_path / "plan").exists()
    share = float(capsys.readouterr().err.split("raise source.test_share to ")[1].split(",")[0])
    options["source"]["test_share"] = share
    assert main([*plan, "--options", json.dumps(options)]) == 0
    assert main([*plan, "--options", json.dumps(options), "--scored", '{"classes": ["cat", "dog"], "k": 39}']) == 2


def test_damage_that_leaves_too_few_is_named_where_it_is_found(animals, tmp_path, run_stage):
    source = {"kind": "folders", "root": str(animals), "test_last": 4}
    options = {"source": source, "size": 16, "shards": {"train": 1, "test": 1}, "max_damaged": 0.2}
    dataset = run_stage(options, tmp_path / "whole")
    files = [dataset.folder / name for name in ("plan.parquet", "q.csv", "c.json")]
    scored = Scored(("cat", "wild dog"), k=3)
    indices = [dataset.tar(split).with_suffix(".parquet") for split in ("train", "test")]
    shard.index(files[0], indices, tmp_path / "m", files[1], files[2], scored)
    (animals / "cat" / "08.webp").write_bytes(b"")
    dataset = run_stage(options, tmp_path / "damaged")
    indices = [dataset.tar(split).with_suffix(".parquet") for split in ("train", "test")]
    with pytest.raises(LanitError, match="the test split has 3 images of 'cat', where .* need 4"):
        shard.index(files[0], indices, tmp_path / "m", files[1], files[2], scored)


def test_the_card_knows_the_counts_and_is_asked_only_where_it_is_of_these_options(drawn, faces):
    path, options = drawn.folder / "dataset.json", faces()
    card = read_card(path)
    truth = read_truth(drawn.manifest, "test").drop(columns="key")
    assert card.counts["test"] == truth.sum().to_dict() and list(card.counts) == ["train", "test"]
    now = digest(parse(ShardOptions, options))
    assert card.options == now
    with pytest.raises(LanitError, match="'hatt' is none of the source's; did you mean 'hat'"):
        check_card(path, now, Scored(("hatt", "sun")), options["source"])
    check_card(path, now, Scored(("hat", "sun")), options["source"])
    check_card(path, "of others", Scored(("hatt", "sun")), options["source"])
    check_card(path.with_name("none.json"), now, Scored(("hatt", "sun")), options["source"])


def test_looking_needs_nothing_but_python():
    code = (
        "import sys, lanit.data.scored, lanit.data.shard;"
        "sys.exit(bool({'numpy', 'pyarrow', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
