"""Labels of truth: one domain an image, by a rule that the image alone or split train decides; for whom they are."""

from __future__ import annotations

import json

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from lanit.cli import main
from lanit.config import LanitError
from lanit.data.manifest import read_truth
from lanit.language.pseudo_labels import LabellerOptions, Labels, adaptive, check_labeller, read_labels, write_labels
from lanit.language.truth_labels import choose_one, truth_labels

TRUTH = LabellerOptions("truth")
RAREST = LabellerOptions("truth", choose="rarest")


@pytest.fixture
def manifest(tmp_path):
    """What the label stage reads of one: hats are rare in split train and common in test, scarves the reverse."""
    rows = {  # split → (hat, scarf, mask) of its images
        "test": [(1, 1, 0), (1, 1, 0), (1, 0, 0), (0, 0, 0)],
        "pretrain": [(1, 1, 1)] * 3,
        "train": [(1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (0, 0, 0), (0, 1, 0)],
        "val": [(1, 1, 1), (0, 1, 1)],
    }
    flat = [(split, *row) for split, found in rows.items() for row in found]
    columns = {"key": [f"{split}{i}" for i, (split, *_) in enumerate(flat)], "split": [row[0] for row in flat]}
    for n, name in enumerate(("hat", "scarf", "mask"), 1):
        columns[f"truth:{name}"] = [bool(row[n]) for row in flat]
    parquet.write_table(pyarrow.table(columns), tmp_path / "manifest.parquet")
    return tmp_path / "manifest.parquet"


def test_any_of_an_image_s_domains_is_its_one_equally_often():
    truth = np.array([[True, True, False, True]] * 3000 + [[False, True, True, False]] * 3000)
    labels = choose_one(truth, [f"{i:016x}" for i in range(6000)], "random", truth.mean(0))
    assert (labels.sum(1) == 1).all() and not (labels & ~truth).any()
    three, two = labels[:3000].sum(0), labels[3000:].sum(0)
    assert (abs(three[[0, 1, 3]] - 1000) < 4 * (3000 * 2 / 9) ** 0.5).all()
    assert (abs(two[1:3] - 1500) < 4 * (3000 / 4) ** 0.5).all()


def test_a_random_choice_is_a_function_of_the_key_and_the_image_s_domains_alone():
    rng = np.random.default_rng(0)
    truth, keys = rng.random((50, 4)) < 0.5, [f"image {i}" for i in range(50)]
    labels = choose_one(truth, keys, "random", truth.mean(0))
    order = rng.permutation(50)[:20]
    again = choose_one(truth[order], [keys[i] for i in order], "random", np.zeros(4))
    assert (again == labels[order]).all()
    assert (choose_one(truth, keys[::-1], "random", truth.mean(0)) != labels).any()
    pinned = choose_one(np.ones((6, 3), bool), list("abcdef"), "random", np.ones(3))
    assert pinned.argmax(1).tolist() == [1, 1, 0, 1, 1, 2]


def test_the_rarest_of_an_image_s_domains_is_its_one_and_the_first_of_equals():
    truth = np.array([[1, 1, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1], [0, 1, 0]], bool)
    labels = choose_one(truth, list("abcde"), "rarest", np.array([0.4, 0.5, 0.4]))
    assert labels.argmax(1).tolist() == [0, 0, 2, 0, 1] and (labels.sum(1) == 1).all()


@pytest.mark.parametrize("choose", ["random", "rarest"])
def test_an_image_that_shows_no_domain_has_no_label(choose):
    truth = np.array([[False, False], [True, True], [False, False], [False, True]])
    assert choose_one(truth, list("abcd"), choose, np.array([0.5, 0.5])).sum(1).tolist() == [0, 1, 0, 1]


def test_every_split_but_pretrain_is_labelled_and_what_is_rare_is_rare_in_split_train(manifest):
    found = dict(truth_labels(RAREST, ["scarf", "hat", "mask"], manifest))
    assert list(found) == ["train", "test", "val"]
    # In test and val hats are not rarer than scarves: by their own shares these would be scarves.
    assert found["test"].labels.argmax(1)[:3].tolist() == [1, 1, 1] and not found["test"].labels[3].any()
    assert found["val"].labels.argmax(1).tolist() == [1, 2]
    for split, labels in found.items():
        truth = read_truth(manifest, split)
        assert labels.supervision == "truth" and labels.domains == ("scarf", "hat", "mask")
        assert list(labels.keys) == truth["key"].tolist()
        shown = truth[["scarf", "hat", "mask"]].to_numpy()
        assert (labels.similarities == shown).all() and (adaptive(labels.similarities, labels.base) == shown).all()


def test_any_domain_of_an_image_is_chosen_where_nothing_else_is_said(manifest):
    domains = ["hat", "scarf", "mask"]
    said, unsaid = (
        dict(truth_labels(LabellerOptions("truth", choose=choose), domains, manifest))["train"].labels
        for choose in ("random", None)
    )
    truth = read_truth(manifest, "train")
    expected = choose_one(truth[domains].to_numpy(), truth["key"].tolist(), "random", np.ones(3))
    assert (said == expected).all() and (unsaid == expected).all()


@pytest.mark.parametrize(
    ("domains", "message"),
    [
        (["hat", "yacht"], "the domain 'yacht' is no class of the dataset, .* there are hat, scarf, mask"),
        (["hat", "hat"], "the domain 'hat' is given twice"),
        ([], "no domain is given"),
    ],
)
def test_domains_that_truth_cannot_give(manifest, domains, message):
    with pytest.raises(LanitError, match=message):
        list(truth_labels(TRUTH, domains, manifest))


def test_a_domain_that_no_training_image_is_chosen_for_is_an_error(manifest):
    """Networks would have a domain that they never learn."""
    table = parquet.read_table(manifest)
    hats = pyarrow.array([False] * len(table))
    parquet.write_table(table.set_column(table.column_names.index("truth:hat"), "truth:hat", hats), manifest)
    with pytest.raises(LanitError, match="no training image is labelled with the domain 'hat'"):
        list(truth_labels(TRUTH, ["hat", "scarf"], manifest))


def test_who_may_read_labels_stands_in_their_file(manifest, tmp_path):
    for split, labels in truth_labels(TRUTH, ["hat", "scarf"], manifest):
        write_labels(labels, tmp_path / "labels", split)
        assert read_labels(tmp_path / "labels", split).supervision == "truth"
        assert parquet.read_schema(tmp_path / "labels" / f"{split}.parquet").metadata[b"supervision"] == b"truth"
    text = Labels(("a",), ("hat",), np.ones((1, 1)), np.zeros(1), np.ones((1, 1), bool))
    write_labels(text, tmp_path / "labels", "train")
    assert read_labels(tmp_path / "labels", "train").supervision == "text"


def command(faces, folder, labeller, *arguments):
    options = json.dumps({"labeller": labeller, "domains": ["hat", "glasses"]})
    return main(["label", "--options", options, "--manifest", str(faces), "--output", str(folder), *arguments])


def test_the_command_labels_by_truth_alone(faces, tmp_path):
    assert command(faces, tmp_path, {"kind": "truth", "choose": "rarest"}) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["quality.json", "test.parquet", "train.parquet"]
    quality = json.loads((tmp_path / "quality.json").read_text())
    assert quality["labeller"] == {"kind": "truth", "choose": "rarest"} and set(quality["splits"]) == {"train", "test"}
    assert all(row["precision"] == 1 for row in quality["splits"]["train"]["per_domain"].values())
    truth, labels = read_truth(faces, "test"), read_labels(tmp_path, "test")
    assert (labels.similarities == truth[["hat", "glasses"]].to_numpy()).all()
    assert (labels.labels.sum(1) == truth[["hat", "glasses"]].to_numpy().any(1)).all()


@pytest.mark.parametrize(
    ("labeller", "arguments", "message"),
    [
        ("truth", ["--texts", "t"], "labels of truth come of no text; leave out --texts and --embeddings"),
        ("truth", ["--embeddings", "e"], "labels of truth come of no text; leave out --texts and --embeddings"),
        ("adaptive", [], "the labeller adaptive needs --texts and --embeddings"),
        ("adaptive", ["--texts", "t"], "the labeller adaptive needs --texts and --embeddings"),
        ("adaptive", ["--embeddings", "e"], "the labeller adaptive needs --texts and --embeddings"),
    ],
)
def test_labels_come_of_truth_or_of_texts_and_never_of_both(faces, tmp_path, capsys, labeller, arguments, message):
    assert command(faces, tmp_path / "labels", {"kind": labeller}, *arguments) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "labels").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "adaptive", "choose": "random"}, "the labeller adaptive takes no choose; it belongs to truth"),
        ({"kind": "truth", "k": 1}, "the labeller truth takes no k; it belongs to top_k"),
        ({"kind": "truth", "threshold": 0.5}, "the labeller truth takes no threshold; it belongs to fixed"),
    ],
)
def test_a_labeller_says_nothing_that_is_not_used(options, message):
    with pytest.raises(LanitError, match=message):
        check_labeller(LabellerOptions(**options), 2)
