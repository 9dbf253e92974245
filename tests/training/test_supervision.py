"""Truth reaches methods that learn with supervision and no other, whatever it says and whether it is there at all."""

import json
import shutil

import pyarrow
import pytest
import torch
from pyarrow import parquet
from trainings import OPTIONS, label_by_texts, label_by_truth, model, options_of

from lanit import catalogue
from lanit.cli import main
from lanit.config import LanitError, parse
from lanit.data.manifest import TRUTH
from lanit.training import loop
from lanit.training.distributed import World
from lanit.training.labelling import Inputs
from lanit.training.options import TrainOptions

ONE = World(0, 1, torch.device("cpu"))
UNSUPERVISED = [name for name, entry in catalogue.METHODS.items() if entry.supervision != "truth"]


@pytest.fixture(params=["inverted", "removed"])
def other(request, manifest, tmp_path):
    """The manifest of the same images with other truth."""
    shutil.copytree(manifest.parent / "shards", tmp_path / "other" / "shards")
    table = parquet.read_table(manifest)
    classes = [name for name in table.column_names if name.startswith(TRUTH)]
    assert len(classes) == 16
    if request.param == "removed":
        table = table.drop_columns(classes)
    for name in classes if request.param == "inverted" else []:
        wrong = pyarrow.array(~table[name].to_numpy())
        table = table.set_column(table.column_names.index(name), name, wrong)
    parquet.write_table(table, tmp_path / "other" / "manifest.parquet")
    return tmp_path / "other" / "manifest.parquet"


def train(options, inputs, folder):
    assert loop.train(parse(TrainOptions, options), inputs, folder, None, ONE)
    return model(folder)


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("method", UNSUPERVISED)
def test_a_method_without_supervision_trains_to_the_same_bits_whatever_truth_says(
    method, manifest, other, language, tmp_path
):
    """From the label stage on: what comes before it reads no manifest, or split pretrain alone."""
    options = options_of(method, language)
    found, given = [], [manifest, other]
    for number, path in enumerate(given):
        labels, embeddings = None, ()
        if catalogue.find(method).supervision == "text":
            labels, embeddings = tmp_path / f"labels{number}", tuple(language["embeddings"])
            label_by_texts(path, labels, language["texts"], language["all_embeddings"])
        found.append(train(options, Inputs(path, labels, embeddings), tmp_path / f"run{number}"))
        assert (
            labels is None
            or (labels / "train.parquet").read_bytes() == (tmp_path / "labels0" / "train.parquet").read_bytes()
        )
    assert same(*found)


@pytest.mark.parametrize("other", ["inverted"], indirect=True)
def test_truth_decides_what_a_supervised_method_learns(manifest, other, language, tmp_path):
    """Or the comparison above could not fail."""
    found = []
    for number, path in enumerate((manifest, other)):
        label_by_truth(path, tmp_path / f"labels{number}")
        inputs = Inputs(path, tmp_path / f"labels{number}")
        found.append(train(options_of("stargan2", language), inputs, tmp_path / f"run{number}"))
    assert not same(*found)


@pytest.mark.parametrize(
    "method, given, message",
    [
        ("lanit", "stargan2", "come of truth, and lanit may read labels of text alone; give it others"),
        ("stargan2", "lanit", "come of text, and stargan2 may read labels of truth alone; give it others"),
        ("smoothing", "lanit", "come of text, and smoothing may read labels of truth alone; give it others"),
    ],
)
def test_a_training_refuses_labels_that_are_not_of_its_supervision(inputs, language, tmp_path, method, given, message):
    options = options_of(method, language)
    with pytest.raises(LanitError, match=message):
        train(options, inputs(OPTIONS | {"method": given}), tmp_path)
    assert not (tmp_path / "model.safetensors").exists()


def test_a_supervised_training_asks_for_labels_of_truth(manifest, language, tmp_path, capsys):
    options = json.dumps(options_of("stargan2", language))
    assert main(["train", "--options", options, "--manifest", str(manifest), "--output", str(tmp_path)]) == 2
    assert "stargan2 trains on labels of truth; give their folder with --labels" in capsys.readouterr().err
