"""Cluster quality against scikit-learn, and on tables whose numbers are known."""

import itertools

import numpy as np
import pytest
from sklearn import metrics

from lanit.evaluation.clusters import (
    adjusted_rand_index,
    cluster_quality,
    contingency,
    matched_accuracy,
    normalised_mutual_information,
    purity,
)

rng = np.random.default_rng(0)
CASES = {
    "random": (rng.integers(5, size=300), rng.integers(4, size=300), 5, 4),
    "related": (clusters := rng.integers(6, size=300), np.where(rng.random(300) < 0.6, clusters % 4, 3), 6, 4),
    "fewer clusters than classes": (rng.integers(2, size=200), rng.integers(7, size=200), 2, 7),
    "one cluster": (np.zeros(50, int), rng.integers(3, size=50), 4, 3),
    "one class": (rng.integers(3, size=50), np.zeros(50, int), 3, 2),
    "one of each": (np.ones(20, int), np.zeros(20, int), 3, 2),
    "the classes, renamed": ((classes := rng.integers(4, size=80)) * 3 % 4, classes, 4, 4),
    "each image alone": (np.arange(6), np.array([0, 0, 1, 1, 2, 2]), 6, 3),
    "one image": (np.array([2]), np.array([1]), 3, 3),
}


@pytest.mark.parametrize("case", CASES)
def test_scores_are_scikit_learns(case):
    clusters, classes, count, known = CASES[case]
    table = contingency(clusters, classes, count, known)
    assert table.shape == (count, known) and table.sum() == len(clusters)
    assert normalised_mutual_information(table) == pytest.approx(
        metrics.normalized_mutual_info_score(classes, clusters), abs=1e-12
    )
    assert adjusted_rand_index(table) == pytest.approx(metrics.adjusted_rand_score(classes, clusters), abs=1e-12)
    np.testing.assert_array_equal(
        table[table.any(axis=1)][:, table.any(axis=0)], metrics.cluster.contingency_matrix(clusters, classes)
    )


@pytest.mark.parametrize("count, known", [(3, 3), (5, 3), (2, 4)])
def test_accuracy_is_that_of_the_best_of_all_matchings(count, known):
    table = np.random.default_rng(count).integers(20, size=(count, known))
    short, long = sorted(table.shape)
    wide = table if count <= known else table.T
    best = max(sum(wide[i, j] for i, j in enumerate(order)) for order in itertools.permutations(range(long), short))
    assert matched_accuracy(table) == pytest.approx(best / table.sum())


def test_a_split_class_lowers_accuracy_and_not_purity():
    table = np.array([[30, 0], [20, 0], [0, 50]])
    assert matched_accuracy(table) == 0.8 and purity(table) == 1.0
    assert purity(np.array([[30, 20], [5, 45]])) == 0.75


def test_only_images_of_exactly_one_class_count():
    truth = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 1]], bool)
    clusters = np.array([2, 0, 3, 3, 2, 1])
    found = cluster_quality(clusters, truth, 6)
    assert found == {
        "accuracy": 1.0, "nmi": pytest.approx(1.0), "ari": 1.0, "purity": 1.0, "largest_class": 0.5, "images": 4,
        "share": pytest.approx(2 / 3), "clusters": 6, "used": 4,
    }  # fmt: skip
    found = cluster_quality(np.zeros(6, int), truth, 6)
    assert found["accuracy"] == found["purity"] == found["largest_class"] == 0.5 and found["nmi"] == found["ari"] == 0
    assert found["used"] == 1


def test_without_such_an_image_nothing_is_told():
    found = cluster_quality(np.array([0, 1]), np.array([[True, True], [False, False]]), 2)
    assert (found["images"], found["share"], found["used"]) == (0, 0, 2)
    assert all(found[name] is None for name in ("accuracy", "nmi", "ari", "purity", "largest_class"))
