"""The protocol decides which images are translated, and nothing else does."""

import numpy as np
import pytest

from lanit.config import LanitError, parse
from lanit.evaluation.protocols import Protocol, draw_pairs, draw_picture_rows

KNOWN = ["hat", "beard", "scarf", "sun"]


@pytest.fixture
def truth():
    return np.random.default_rng(0).random((80, 4)) < 0.4


@pytest.fixture
def one_hot():
    return np.arange(80)[:, None] % 4 == np.arange(4)


def test_sources_lack_the_target_and_references_show_it(truth):
    pairs = draw_pairs(truth, KNOWN, ["hat", "scarf", "sun"], Protocol(pairs=20))
    columns = np.array([0, 2, 3])
    assert len(pairs.source) == 3 * 2 * 20
    assert not truth[pairs.source, columns[pairs.target]].any()
    assert truth[pairs.source, columns[pairs.origin]].all()
    assert truth[pairs.reference, columns[pairs.target]].all()
    assert (pairs.source != pairs.reference).all() and (pairs.origin != pairs.target).all()


def test_every_ordered_pair_of_classes_has_its_translations(one_hot):
    pairs = draw_pairs(one_hot, KNOWN, KNOWN, Protocol(pairs=7))
    counts = np.zeros((4, 4), int)
    np.add.at(counts, (pairs.target, pairs.origin), 1)
    assert (counts == 7 * (1 - np.eye(4))).all()


def test_pairs_depend_on_truth_classes_and_protocol_alone(truth):
    first, again = (draw_pairs(truth, KNOWN, ["hat", "sun"], Protocol()) for _ in range(2))
    np.random.seed(1)
    for name in ("source", "reference", "target", "origin"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    other = draw_pairs(truth, KNOWN, ["hat", "sun"], Protocol(seed=1))
    assert (first.source != other.source).any() and (first.reference != other.reference).any()


def test_pairs_of_two_classes_stay_when_a_class_is_added(truth):
    few = draw_pairs(truth, KNOWN, ["hat", "sun"], Protocol())
    more = draw_pairs(truth, KNOWN, ["hat", "beard", "sun"], Protocol())
    into_hat, from_sun = (few.target == 0), (more.target == 0) & (more.origin == 2)
    np.testing.assert_array_equal(few.source[into_hat], more.source[from_sun])
    np.testing.assert_array_equal(few.reference[into_hat], more.reference[from_sun])


def test_the_pairs_of_a_seed_are_these():
    """A change here changes every number: give the protocol another name."""
    truth = np.arange(20)[:, None] % 2 == np.arange(2)
    pairs = draw_pairs(truth, ["a", "b"], ["a", "b"], Protocol(pairs=3))
    assert pairs.source.tolist() == [5, 11, 13, 8, 0, 2] and pairs.reference.tolist() == [18, 10, 2, 17, 9, 3]


def test_an_image_comes_again_only_when_all_others_have_come(one_hot):
    pairs = draw_pairs(one_hot, KNOWN, ["hat", "sun"], Protocol(pairs=50))
    for rows in (pairs.source[:50], pairs.reference[:50]):
        assert set(np.bincount(rows, minlength=80)[np.unique(rows)]) == {2, 3} and len(set(rows)) == 20


def test_a_class_pair_without_sources_is_left_out(truth):
    truth[:, 1] &= truth[:, 0]  # who has a beard has a hat
    pairs = draw_pairs(truth, KNOWN, ["hat", "beard", "sun"], Protocol(pairs=5))
    into_hat = pairs.target == 0
    assert set(pairs.origin[into_hat]) == {2} and into_hat.sum() == 5 and len(pairs.source) == 25


def test_a_class_that_cannot_be_a_target_is_an_error(truth):
    truth[:, 1] = False
    with pytest.raises(LanitError, match="no image of 'beard' to take as a reference"):
        draw_pairs(truth, KNOWN, ["hat", "beard"], Protocol())
    truth[:, 1] = True
    with pytest.raises(LanitError, match="no image of another class without 'beard'"):
        draw_pairs(truth, KNOWN, ["hat", "beard"], Protocol())


def test_classes_are_the_same_however_their_accents_are_written(truth):
    known = ["hat", "caf\u00e9", "scarf", "sun"]
    apart = draw_pairs(truth, known, ["hat", "cafe\u0301"], Protocol())
    np.testing.assert_array_equal(apart.source, draw_pairs(truth, known, ["hat", "caf\u00e9"], Protocol()).source)


def test_unknown_and_repeated_classes_are_errors(truth):
    with pytest.raises(LanitError, match="'crown' is none of the dataset's; it has hat, beard, scarf, sun"):
        draw_pairs(truth, KNOWN, ["hat", "crown"], Protocol())
    with pytest.raises(LanitError, match="name at least two, each once"):
        draw_pairs(truth, KNOWN, ["hat", "hat"], Protocol())
    with pytest.raises(LanitError, match="protocol.pairs and protocol.k must be at least 1"):
        draw_pairs(truth, KNOWN, ["hat", "sun"], Protocol(pairs=0))


def test_a_description_holds_all_that_a_number_depends_on():
    described = parse(Protocol, {"pairs": 9, "seed": 4}).describe(["hat", "sun"])
    assert {key: described[key] for key in ("name", "pairs", "k", "seed", "split", "classes")} == {
        "name": "reference", "pairs": 9, "k": 5, "seed": 4, "split": "test", "classes": ["hat", "sun"],
    }  # fmt: skip


def test_pictures_show_each_class_on_a_plain_reference_and_sources_of_other_images(truth):
    sources, references = draw_picture_rows(truth, KNOWN, ["hat", "sun", "beard"], 6, seed=0)
    assert len(set(sources) | set(references)) == 9
    for reference, column in zip(references, [0, 3, 1]):
        assert truth[reference, column]
        assert truth[reference].sum() == truth[truth[:, column]].sum(axis=1).min()
    assert truth[sources, [0, 3, 1, 0, 3, 1]].all()
    again = draw_picture_rows(truth, KNOWN, ["hat", "sun", "beard"], 6, seed=0)
    np.testing.assert_array_equal(sources, again[0])
