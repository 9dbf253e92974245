"""The three labelling rules, their options, the files they are kept in, and their quality."""

from __future__ import annotations

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet
from sklearn.metrics import precision_recall_fscore_support

from lanit.config import LanitError, parse
from lanit.language import quality
from lanit.language.pseudo_labels import (
    LabellerOptions,
    Labels,
    Texts,
    adaptive,
    advice,
    check_labeller,
    choose,
    fixed,
    label,
    read_labels,
    read_texts,
    top_k,
    with_slack,
    write_labels,
    write_texts,
)

SIMILARITIES = np.array([[0.3, 0.1, 0.2], [0.2, 0.2, 0.2], [-0.1, -0.3, -0.2]], dtype=np.float32)
BASE = np.array([0.15, 0.2, -0.25], dtype=np.float32)


def test_adaptive_labels_are_the_domains_above_the_image_s_own_base_prompt():
    expected = [[True, False, True], [False, False, False], [True, False, True]]  # equal is not above
    assert adaptive(SIMILARITIES, BASE).tolist() == expected


def test_top_k_gives_every_image_k_domains_and_the_earlier_of_equals():
    expected = [[True, False, True], [True, True, False], [True, False, True]]
    assert top_k(SIMILARITIES, 2).tolist() == expected
    assert top_k(SIMILARITIES, 3).all()


def test_a_fixed_threshold_is_one_for_all_images():
    expected = [[True, False, False], [False, False, False], [False, False, False]]
    assert fixed(SIMILARITIES, 0.2).tolist() == expected  # 0.2 as float32 is not above 0.2


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, adaptive(SIMILARITIES, BASE)),
        ({"kind": "top_k", "k": 1}, top_k(SIMILARITIES, 1)),
        ({"kind": "fixed", "threshold": 0}, fixed(SIMILARITIES, 0)),
    ],
)
def test_options_choose_the_rule(options, expected):
    labeller = parse(LabellerOptions, options)
    check_labeller(labeller, 3)
    assert (label(labeller, SIMILARITIES, BASE) == expected).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "top_k", "k": 4}, "k must be from 1 to the 3 domains, not 4"),
        ({"kind": "top_k", "k": 0}, "k must be from 1 to the 3 domains, not 0"),
        ({"kind": "top_k"}, "top_k needs k"),
        ({"kind": "fixed"}, "fixed needs threshold"),
        ({"kind": "adaptive", "threshold": 0.2}, "adaptive takes no threshold"),
        ({"kind": "fixed", "threshold": 0.2, "k": 1}, "fixed takes no k"),
    ],
)
def test_a_labeller_that_is_incomplete_or_says_too_much(options, message):
    with pytest.raises(LanitError, match=message):
        check_labeller(LabellerOptions(**options), 3)


def test_the_slack_column_is_on_where_no_other_is():
    labels = with_slack(adaptive(SIMILARITIES, BASE))
    assert labels.dtype == bool
    assert labels.tolist() == [[True, False, True, False], [False, False, False, True], [True, False, True, False]]


def test_advice_names_what_keeps_the_images_without_labels():
    similarities = np.array([[0.10, 0.20], [0.25, 0.15], [0.10, 0.05], [0.30, 0.20]], dtype=np.float32)
    base = np.array([0.21, 0.30, 0.20, 0.28], dtype=np.float32)  # gaps 0.01, 0.05, 0.1; the last has a label
    templates = ["a face with {}.", "a face of {}.", "a face with {}."]
    said = advice(LabellerOptions(), templates, similarities, base)
    assert "('a face with.', 'a face of.')" in said and "75% of the images" in said and "0.050 in the median" in said
    assert "'2 d.' and others)" in advice(LabellerOptions(), [f"{i} {{}} d." for i in range(4)], similarities, base)
    said = advice(LabellerOptions("fixed", threshold=0.4), templates, similarities, base)
    assert "0.300 at the highest" in said and "0.225 in the median" in said and "threshold is 0.4" in said


def test_labels_and_texts_come_back_as_they_were_written(tmp_path):
    labels = Labels(("a", "b", "c"), ("hat", "d:odd", "red hair"), SIMILARITIES, BASE, adaptive(SIMILARITIES, BASE))
    write_labels(labels, tmp_path, "test")
    back = read_labels(tmp_path, "test")
    assert (back.keys, back.domains) == (labels.keys, labels.domains)
    for name in ("similarities", "base", "labels"):
        array = getattr(back, name)
        assert array.dtype == getattr(labels, name).dtype and (array == getattr(labels, name)).all()
    write_texts(Texts(labels.domains, SIMILARITIES, BASE), tmp_path / "texts.safetensors")
    texts = read_texts(tmp_path / "texts.safetensors")
    assert texts.names == labels.domains and (texts.domains == SIMILARITIES).all() and (texts.base == BASE).all()


def test_files_that_are_not_labels(tmp_path):
    with pytest.raises(LanitError, match="no labels at .*test.parquet"):
        read_labels(tmp_path, "test")
    parquet.write_table(pyarrow.table({"key": ["a"], "f:hat": [0.1]}), tmp_path / "test.parquet")
    with pytest.raises(LanitError, match="it has the columns key, f:hat"):
        read_labels(tmp_path, "test")
    (tmp_path / "train.parquet").write_bytes(b"no table")
    with pytest.raises(LanitError, match="not a table of labels"):
        read_labels(tmp_path, "train")
    with pytest.raises(LanitError, match="no file at"):
        read_texts(tmp_path / "texts.safetensors")
    (tmp_path / "texts.safetensors").write_bytes(b"no tensors")
    with pytest.raises(LanitError, match="is not what lanit embed writes"):
        read_texts(tmp_path / "texts.safetensors")


def test_chosen_texts_keep_the_asked_order():
    texts = Texts(("hat", "glasses", "beard"), np.eye(3, dtype=np.float32), BASE)
    assert choose(texts, ["beard", "hat"]).domains.tolist() == [[0, 0, 1], [1, 0, 0]]


@pytest.mark.parametrize(
    ("domains", "message"),
    [
        (["hat", "glases"], "'glases' has no text features; did you mean 'glasses'"),
        (["hat", "hat"], "given twice"),
        ([], "no domain"),
    ],
)
def test_domains_that_cannot_be_chosen(domains, message):
    with pytest.raises(LanitError, match=message):
        choose(Texts(("hat", "glasses"), np.eye(2, dtype=np.float32), BASE), domains)


def test_quality_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    true, predicted = rng.random((200, 5)) < 0.3, rng.random((200, 5)) < 0.4
    predicted[:, 3], true[:, 4] = False, False  # quotients with nothing below
    domains = tuple(f"domain {n}" for n in range(5))
    labels = Labels(tuple(map(str, range(200))), domains, np.zeros((200, 5)), np.zeros(200), predicted)
    found = quality.compare(labels, {domain: true[:, n] for n, domain in enumerate(domains)})
    precision, recall, f1, _ = precision_recall_fscore_support(true, predicted, zero_division=0)
    for n, domain in enumerate(domains):
        values = found["per_domain"][domain]
        assert (values["precision"], values["recall"], values["f1"]) == pytest.approx((precision[n], recall[n], f1[n]))
        assert values["share_true"] == pytest.approx(true[:, n].mean())
        assert values["share_predicted"] == pytest.approx(predicted[:, n].mean())
    assert found["f1_macro"] == pytest.approx(f1.mean())


def test_quality_speaks_of_truth_only_where_a_domain_is_a_class():
    labels = Labels(("a", "b", "c"), ("hat", "yacht", "sun"), SIMILARITIES, BASE, adaptive(SIMILARITIES, BASE))
    found = quality.compare(labels, {"hat": np.array([True, False, True]), "scarf": np.array([True] * 3)})
    assert found["f1_macro"] == found["per_domain"]["hat"]["f1"] == 1.0
    assert found["per_domain"]["yacht"] == {"share_predicted": 0.0}
    assert quality.compare(labels, {})["f1_macro"] is None
    half = np.array([[True, True], [True, False]])
    everything = Labels(("a", "b"), ("hat", "sun"), SIMILARITIES[:2, :2], BASE[:2], half)
    assert quality.describe(labels) == pytest.approx(
        {"images": 3, "mean_labels": 4 / 3, "share_without": 1 / 3, "share_all": 0.0}
    )
    assert quality.describe(everything)["share_all"] == 0.5


def test_quality_finds_a_class_however_the_accents_of_a_domain_are_written():
    labels = Labels(("a", "b"), ("cafe\u0301", "hat"), SIMILARITIES[:2, :2], BASE[:2], np.ones((2, 2), bool))
    found = quality.compare(labels, {"caf\u00e9": np.array([True, True])})
    assert found["f1_macro"] == found["per_domain"]["cafe\u0301"]["f1"] == 1.0
