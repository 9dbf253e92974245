"""The command `lanit label`: embeddings, texts and manifest to labels, in the manifest's order."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lanit.cli import main
from lanit.data.manifest import read_manifest, read_truth
from lanit.files import read_tensors, write_tensors
from lanit.language.pseudo_labels import read_labels

NAMES = ["hat", "glasses", "yacht"]


@pytest.fixture
def inputs(faces, tmp_path, unit):
    """Random texts, and random embeddings of train and test whose rows are in another order than the manifest's."""
    rng = np.random.default_rng(1)
    arrays = {"domains": unit(rng, 3, 8), "base": unit(rng, 8)}
    write_tensors(tmp_path / "texts.safetensors", arrays, {"names": NAMES})
    for split, shard in (("train", 0), ("train", 1), ("test", 0)):
        rows = read_manifest(faces, split)
        keys = rows.loc[rows["shard"] == shard, "key"].tolist()[::-1]
        embeddings = unit(rng, len(keys), 8)
        write_tensors(tmp_path / f"{split}-{shard}.safetensors", {"embeddings": embeddings}, {"keys": keys})
    return tmp_path


def command(
    inputs: Path, faces: Path, *, shards=("train-1", "test-0", "train-0"), domains=NAMES, **labeller
) -> list[str]:
    options = {"labeller": {"kind": "adaptive"} | labeller, "domains": list(domains)}
    embeddings = [str(inputs / f"{shard}.safetensors") for shard in shards]
    paths = ["--texts", str(inputs / "texts.safetensors"), "--embeddings", *embeddings, "--manifest", str(faces)]
    return ["label", "--options", json.dumps(options), *paths, "--output", str(inputs / "labels")]


def test_labels_lie_in_the_manifest_s_order_with_their_similarities(inputs, faces):
    assert main(command(inputs, faces, domains=["yacht", "hat"])) == 0
    texts, _ = read_tensors(inputs / "texts.safetensors", (), "lanit embed")
    for split, shards in (("train", 2), ("test", 1)):
        labels = read_labels(inputs / "labels", split)
        assert list(labels.keys) == read_manifest(faces, split)["key"].tolist()
        assert labels.domains == ("yacht", "hat")
        rows = {}
        for shard in range(shards):
            arrays, metadata = read_tensors(inputs / f"{split}-{shard}.safetensors", (), "lanit embed")
            rows |= dict(zip(metadata["keys"], arrays["embeddings"]))
        embeddings = np.stack([rows[key] for key in labels.keys])
        np.testing.assert_allclose(labels.similarities, embeddings @ texts["domains"][[2, 0]].T, atol=1e-6)
        np.testing.assert_allclose(labels.base, embeddings @ texts["base"], atol=1e-6)
        assert (labels.labels == (labels.similarities > labels.base[:, None])).all()
    assert not (inputs / "labels" / "pretrain.parquet").exists()


def test_texts_and_embeddings_of_clips_that_see_otherwise_are_refused(inputs, faces, capsys):
    def mark(name, clip):
        arrays, metadata = read_tensors(inputs / f"{name}.safetensors", (), "lanit embed")
        write_tensors(inputs / f"{name}.safetensors", arrays, metadata | {"clip": clip})

    for name in ("texts", "train-0", "train-1", "test-0"):
        mark(name, "0123456789ab")
    assert main(command(inputs, faces)) == 0
    _, metadata = read_tensors(inputs / "labels" / "texts.safetensors", (), "lanit label")
    assert metadata["clip"] == "0123456789ab"
    mark("test-0", "ba9876543210")
    assert main(command(inputs, faces)) == 2
    assert "test-0.safetensors is of another CLIP than the texts in" in capsys.readouterr().err


def test_quality_and_chosen_texts_are_written(inputs, faces):
    assert main(command(inputs, faces, domains=["yacht", "hat"], kind="top_k", k=1)) == 0
    quality = json.loads((inputs / "labels" / "quality.json").read_text())
    assert quality["labeller"] == {"kind": "top_k", "k": 1} and quality["domains"] == ["yacht", "hat"]
    test = quality["splits"]["test"]
    labels, truth = read_labels(inputs / "labels", "test"), read_truth(faces, "test")
    assert test["images"] == 8 and test["mean_labels"] == 1.0 and test["share_all"] == 0.0
    hats = labels.labels[:, 1]
    assert test["per_domain"]["hat"]["share_true"] == truth["hat"].mean()
    recall = (hats & truth["hat"].to_numpy()).sum() / max(1, truth["hat"].sum())
    assert test["per_domain"]["hat"]["recall"] == pytest.approx(recall)
    assert set(test["per_domain"]["yacht"]) == {"share_predicted"}
    arrays, metadata = read_tensors(inputs / "labels" / "texts.safetensors", ("domains", "base"), "lanit label")
    assert metadata["names"] == ["yacht", "hat"] and arrays["domains"].shape == (2, 8)


def test_the_same_input_gives_the_same_bytes(inputs, faces):
    names = ("train.parquet", "test.parquet", "texts.safetensors", "quality.json")
    written = []
    for _ in range(2):
        assert main(command(inputs, faces)) == 0
        written.append([(inputs / "labels" / name).read_bytes() for name in names])
    assert written[0] == written[1]


def test_a_missing_shard_is_named(inputs, faces, capsys):
    assert main(command(inputs, faces, shards=["train-0", "test-0"])) == 2
    assert "images of train-1 have no embeddings" in capsys.readouterr().err


def test_a_shard_given_twice(inputs, faces, capsys):
    assert main(command(inputs, faces, shards=["train-0", "train-1", "train-0"])) == 2
    assert "a second time" in capsys.readouterr().err


def test_images_of_another_dataset(inputs, faces, capsys, unit):
    rows = unit(np.random.default_rng(0), 2, 8)
    write_tensors(inputs / "other.safetensors", {"embeddings": rows}, {"keys": ["x", "y"]})
    assert main(command(inputs, faces, shards=["test-0", "other"])) == 2
    assert "2 of the 10 embedded images are not in" in capsys.readouterr().err


def test_another_clip(inputs, faces, capsys, unit):
    rows = unit(np.random.default_rng(0), 2, 16)
    write_tensors(inputs / "wide.safetensors", {"embeddings": rows}, {"keys": ["x", "y"]})
    assert main(command(inputs, faces, shards=["wide"])) == 2
    assert "embeddings of 16 dimensions and" in capsys.readouterr().err
    assert not (inputs / "labels").exists()


def test_texts_in_place_of_embeddings(inputs, faces, capsys):
    assert main(command(inputs, faces, shards=["texts"])) == 2
    assert "has no embeddings, keys; give a file that lanit embed wrote" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"domains": ["hat", "glases"]}, "did you mean 'glasses'"),
        ({"kind": "top_k", "k": 4}, "from 1 to the 3 domains, not 4"),
        ({"kind": "best"}, "must be one of adaptive, top_k, fixed, truth, not 'best'"),
    ],
)
def test_options_that_do_not_fit(inputs, faces, capsys, changes, message):
    assert main(command(inputs, faces, **changes)) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1


def test_it_needs_no_torch(inputs, faces):
    code = (
        "import sys; from lanit.cli import main; assert main(sys.argv[1:]) == 0; "
        "print(sorted({'torch', 'open_clip', 'webdataset', 'mlflow'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code, *command(inputs, faces)], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "[]", result.stderr
