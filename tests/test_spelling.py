"""One spelling for one meaning: numbers that came as text, keys that are switched off, one name for one folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from lanit.config import LanitError
from lanit.spelling import check_names, name_places, place_name, plain, read_numbers, switch_off

SCHEMA = yaml.safe_load((Path(__file__).parents[1] / "workflow" / "schemas" / "config.schema.yaml").read_text())


@pytest.mark.parametrize(
    "text, value",
    [
        ("1e-4", 1e-4), ("1E5", 100000), ("-2.5e-1", -0.25), ("1.0e6", 1000000), ("800", 800), ("0.5", 0.5),
        (".5", 0.5), ("1_000", 1000), ("true", True), ("null", None), ("1e", "1e"), ("e5", "e5"), ("0x10", "0x10"),
        ("12px", "12px"), ("nan", "nan"), ("", ""), ("pair", "pair"), ("1.2.3", "1.2.3"), (True, True), (0.1, 0.1),
        (None, None),
    ],
)  # fmt: skip
def test_a_number_that_came_as_text_is_a_number(text, value):
    made = plain({"deep": [text]})["deep"][0]
    assert made == value and type(made) is type(value)


def test_text_stays_text_where_text_is_meant():
    config = {
        "results": "2024", "sweep": "1", "domains": ["4", 7], "seeds": ["0"], "evaluate": {"k": "3"},
        "labellers": {"top": {"kind": "top_k", "k": "2"}, "fixed": {"kind": "fixed", "threshold": "2e-1"}},
        "dataset": {"mine": {
            "size": "32", "max_damaged": "1e-2", "classes": ["1e4", "2"], "domains": {4: ["1", "2", "3", "4"]},
            "source": {"kind": "folders", "root": "2023", "test_share": "0.3", "val_share": "1e-1",
                       "names": {"7": "8"}},
        }},
        "clip": {"own": {"model": "1", "train": {"dataset": "2", "steps": "1e2", "learning_rate": "1e-3"}}},
        "features": {"own": {"kind": "judge", "train": {"epochs": "6"}}},
        "train": {"images": "1e6", "lanit": {"batch": 8.0, "compile": "true", "settings": {"betas": ["0", "0.99"]}}},
    }  # fmt: skip
    read_numbers(config, SCHEMA)
    assert (config["results"], config["sweep"], config["domains"], config["seeds"]) == ("2024", "1", [4, 7], [0])
    assert config["evaluate"]["k"] == 3 and config["labellers"]["fixed"]["threshold"] == 0.2
    mine = config["dataset"]["mine"]
    assert (mine["size"], mine["max_damaged"], mine["classes"]) == (32, 0.01, ["1e4", "2"])
    assert mine["domains"] == {4: ["1", "2", "3", "4"]}
    assert mine["source"] == {
        "kind": "folders", "root": "2023", "test_share": 0.3, "val_share": 0.1, "names": {"7": "8"},
    }  # fmt: skip
    assert config["clip"]["own"] == {"model": "1", "train": {"dataset": "2", "steps": 100, "learning_rate": 0.001}}
    images, lanit = config["train"]["images"], config["train"]["lanit"]
    assert (images, type(images), type(lanit["batch"]), lanit["compile"]) == (1000000, int, int, True)
    assert lanit["settings"] == {"betas": [0, 0.99]} and config["features"]["own"]["train"] == {"epochs": 6}


def test_null_takes_an_entry_out_and_no_setting(tmp_path):
    config = {
        "labellers": {"top3": None, "top1": {"k": 1, "templates": None}, "fixed": "null"},
        "clip": {"faces": {"train": None, "pretrained": "own.pt"}},
        "dataset": {"faces": {"shards": {"train": 1, "pretrain": None}, "source": {"splits": None, "root": "x"}}},
        "train": {"tunit": None, "lanit": {"settings": {"base": None}}},
        "tracking": {"uri": None},
    }
    switch_off(config)
    assert config == {
        "labellers": {"top1": {"k": 1}},
        "clip": {"faces": {"pretrained": "own.pt"}},
        "dataset": {"faces": {"shards": {"train": 1}, "source": {"root": "x"}}},
        "train": {"lanit": {"settings": {"base": None}}},
        "tracking": {"uri": None},
    }


@pytest.mark.parametrize(
    "dataset, words",
    [
        ("classes: [cat, no]", r"dataset\.mine\.classes\.1 is false to YAML .*put quotes around"),
        ("domains: [on, off]", r"dataset\.mine\.domains\.0 is true to YAML"),
        ("domains: {2: [hat, ~]}", r"dataset\.mine\.domains\.2\.1 is nothing to YAML"),
        ("classes: [07, 8]", r"dataset\.mine\.classes\.0 is the number 7 to YAML"),
        ("classes: [2024-01-31]", r"dataset\.mine\.classes\.0 is the date 2024-01-31 to YAML"),
        ("classes: [{a: b}]", r"dataset\.mine\.classes\.0 is the mapping .* to YAML"),
        ("source: {classes: [1.10]}", r"dataset\.mine\.source\.classes\.0 is the number 1\.1 to YAML"),
        ("source: {names: {yes: tumour}}", r"dataset\.mine\.source\.names: a key is true to YAML"),
        ("source: {names: {a: no}}", r"dataset\.mine\.source\.names\.a is false to YAML"),
    ],
)
def test_a_name_that_yaml_took_for_something_else_is_a_sentence(dataset, words):
    with pytest.raises(LanitError, match=words):
        check_names({"dataset": {"mine": yaml.safe_load(dataset)}})


def test_names_in_quotes_are_names():
    check_names({"dataset": {"mine": yaml.safe_load("{classes: ['no', '7'], source: {names: {'yes': 'on'}}}")}})
    check_names({"dataset": "what the schema refuses"})


def test_all_spellings_of_a_folder_are_one(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    here = tmp_path / "here"
    here.mkdir()
    (tmp_path / "link").symlink_to(here)
    spellings = ["x", "./x", "x/", "x//", "y/../x", f"{here}/x", f"{tmp_path}/link/x", "../here/x", f"//{here}/./x"]
    assert {place_name(text, here, "results") for text in spellings} == {"x"}
    assert place_name("a/b/", here, "results") == "a/b"
    assert place_name("~/x", here, "results") == place_name(f"{tmp_path}/home/x/", here, "results")
    assert place_name("~/x", tmp_path / "home", "results") == "x"
    assert place_name("../other", here, "results") == "../other"
    assert place_name("/data/./x", here, "results") == "/data/x"
    (here / "disk").symlink_to(tmp_path)  # a folder that lies on another disk keeps its name
    assert place_name("disk", here, "results") == place_name(f"{here}/disk", here, "results") == "disk"
    for text in (".", "./", "x/..", str(here), str(tmp_path / "link" / "x" / "..")):
        with pytest.raises(LanitError, match="results is the working directory itself"):
            place_name(os.path.normpath(text), here, "results")
    with pytest.raises(LanitError, match="results is ~nobody_here/x, in a home that is not known here"):
        place_name("~nobody_here/x", here, "results")


def test_files_are_looked_for_at_home_and_beside_the_snakefile(tmp_path, monkeypatch):
    here, base = tmp_path / "here", tmp_path / "base"
    (base / "configs").mkdir(parents=True)
    here.mkdir()
    for folder, name in ((base, "configs/clip.json"), (base, "own.pt"), (here, "own.pt"), (base, "photos.json")):
        (folder / name).touch()
    (base / "photos").mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", "/home/me")
    config = {
        "clip": {"a": {"model": "configs/clip.json", "pretrained": "own.pt"}, "b": {"model": "ViT-B-32"}},
        "features": {"a": {"kind": "inception", "weights": "~/inception.pt"}},
        "dataset": {"a": {"source": {"root": "~/photos"}}, "b": {"source": {"root": "photos"}}},
        "train": {"images": 8, "lanit": {"settings": {"perceptual": {"weights": "configs/clip.json"}}}},
    }
    name_places(config, base)
    shipped = str(base / "configs" / "clip.json")
    assert config["clip"] == {"a": {"model": shipped, "pretrained": "own.pt"}, "b": {"model": "ViT-B-32"}}
    assert config["features"]["a"]["weights"] == "/home/me/inception.pt"
    assert config["dataset"] == {"a": {"source": {"root": "/home/me/photos"}}, "b": {"source": {"root": "photos"}}}
    assert config["train"]["lanit"]["settings"]["perceptual"]["weights"] == shipped
