"""How well clusters that a method found by itself agree with the classes that images truly show.

Pure functions of a contingency table (K, C): how many images of each class are in each cluster.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def cluster_quality(clusters: NDArray[np.int64], truth: NDArray[np.bool_], count: int) -> dict[str, Any]:
    """Compare clusters with truth, over the images that show exactly one of the classes.

    Where images may show several classes at once, no cluster is right or wrong about an image of two; those, and images
    of none, are left out, and `images` and `share` say what is left.

    Args:
        clusters: (n,) of each image, below `count`.
        truth: (n, C), which of the evaluation classes an image shows.
        count: K, how many clusters the method has.

    Returns:
        `accuracy`, `nmi`, `ari`, `purity` (see below), None without images; `largest_class`, the share of the commonest
        class, which is the accuracy and purity of a method that puts all images into one cluster; `images`, how many
        are counted, and `share`, of all n; `clusters`, K; `used`, how many of them have any of the n images.
    """
    single = truth.sum(axis=1) == 1
    table = contingency(clusters[single], truth[single].argmax(axis=1), count, truth.shape[1])
    images = int(table.sum())
    known = {
        "accuracy": matched_accuracy,
        "nmi": normalised_mutual_information,
        "ari": adjusted_rand_index,
        "purity": purity,
        "largest_class": lambda table: table.sum(axis=0).max() / table.sum(),
    }
    found: dict[str, Any] = {name: float(score(table)) if images else None for name, score in known.items()}
    return found | {
        "images": images,
        "share": images / len(truth),
        "clusters": count,
        "used": len(np.unique(clusters)),
    }


def contingency(clusters: NDArray[np.int64], classes: NDArray[np.int64], count: int, known: int) -> NDArray[np.int64]:
    """Count images by cluster and class: (K, C).

    Args:
        clusters, classes: (n,) of each image.
        count, known: K and C.
    """
    table = np.zeros((count, known), np.int64)
    np.add.at(table, (clusters, classes), 1)
    return table


def matched_accuracy(table: NDArray[np.int64]) -> float:
    """Share of images whose cluster is matched with their class, in the best one-to-one matching (Kuhn, 1955).

    Where there are more clusters than classes, or the reverse, some stay without a match, and their images are wrong.
    """
    from scipy.optimize import linear_sum_assignment

    return table[linear_sum_assignment(table, maximize=True)].sum() / table.sum()


def normalised_mutual_information(table: NDArray[np.int64]) -> float:
    """I(cluster; class) over the mean of the two entropies, in [0, 1]; 1 where both put all images into one."""
    joint = table / table.sum()
    of_cluster, of_class = joint.sum(axis=1), joint.sum(axis=0)
    entropies = _entropy(of_cluster) + _entropy(of_class)
    if entropies == 0:
        return 1.0
    return min(1.0, max(0.0, 2 * (1 - _entropy(joint.ravel()) / entropies)))


def adjusted_rand_index(table: NDArray[np.int64]) -> float:
    """Share of pairs of images on which both agree, over chance: 0 is what random clusters have, 1 is perfect.

    Hubert and Arabie, Journal of Classification 2 (1985).
    """
    together, in_cluster, in_class = _pairs(table), _pairs(table.sum(axis=1)), _pairs(table.sum(axis=0))
    everything = _pairs(table.sum())
    if in_cluster == in_class == together:  # the same partition; also where no two images are in one cluster
        return 1.0
    expected = in_cluster * in_class / everything
    return (together - expected) / ((in_cluster + in_class) / 2 - expected)


def purity(table: NDArray[np.int64]) -> float:
    """Share of images that are of their cluster's commonest class; it grows with the number of clusters."""
    return table.max(axis=1).sum() / table.sum()


def _entropy(shares: NDArray[np.float64]) -> float:
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


def _pairs(counts: NDArray[np.int64]) -> float:
    """How many pairs lie within the groups of these sizes."""
    counts = np.asarray(counts, np.float64)
    return float((counts * (counts - 1) / 2).sum())
