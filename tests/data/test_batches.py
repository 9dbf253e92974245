"""Batches: which images a step sees is a function of seed and step; and the images are the shards' own."""

from __future__ import annotations

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from lanit.config import LanitError
from lanit.data.augment import augment
from lanit.data.batches import ImageStore, balanced_indices, prefetch, sample_indices
from lanit.data.manifest import read_manifest
from lanit.data.rng import BatchRng
from lanit.data.tars import stream


@pytest.fixture(scope="module")
def expected(drawn) -> np.ndarray:
    """All training images in the manifest's order, by another way: streaming."""
    return np.stack([image for i in range(3) for _, image in stream(drawn.tar("train", i))]).transpose(0, 3, 1, 2)


@pytest.fixture
def copy(drawn, tmp_path):
    shutil.copytree(drawn.folder, tmp_path / "copy")
    return tmp_path / "copy"


# The store


@pytest.mark.parametrize("cache_bytes", [0, 10 * 32 * 32 * 3, 2**20], ids=["no cache", "a small one", "all"])
def test_the_store_reads_what_streaming_reads_with_any_cache(drawn, expected, cache_bytes):
    store = ImageStore(drawn.manifest, "train", cache_bytes)
    assert len(store) == 40
    for rows in ([3], [39, 0, 3, 3], range(40), [], range(39, -1, -1)):
        images = store.read(rows)
        assert images.dtype == torch.uint8 and images.shape == (len(rows), 3, 32, 32)
        assert np.array_equal(images.numpy(), expected[list(rows)])


def test_what_the_store_gives_can_be_changed_without_harm(drawn, expected):
    store = ImageStore(drawn.manifest, "train")
    store.read([1]).zero_()
    store.read(torch.tensor([1])).zero_()
    assert np.array_equal(store.read([1]).numpy(), expected[[1]])


def test_cached_images_are_not_read_again(copy, expected):
    store = ImageStore(copy / "manifest.parquet", "train")
    store.read(range(40))
    store.close()
    assert np.array_equal(store.read(range(40)).numpy(), expected)


def test_a_row_out_of_range_is_an_error(drawn):
    store = ImageStore(drawn.manifest, "train")
    for rows in ([40], [-1]):
        with pytest.raises(IndexError):
            store.read(rows)


def test_a_shard_that_is_missing_is_named(copy):
    (copy / "shards" / "train-1.tar").unlink()
    with pytest.raises(LanitError, match="no shard at .*train-1.tar, which the manifest names"):
        ImageStore(copy / "manifest.parquet", "train")


def test_a_shard_shorter_than_the_manifest_says_is_named(copy):
    path = copy / "shards" / "train-2.tar"
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(LanitError, match="train-2.tar has 9000 bytes but .* run the shard stage again"):
        ImageStore(copy / "manifest.parquet", "train")


def test_a_shard_that_changed_is_named(copy):
    path = copy / "shards" / "train-2.tar"
    rows = read_manifest(copy / "manifest.parquet", "train")
    data = bytearray(path.read_bytes())
    data[rows["offset"][rows["shard"] == 2].iloc[3] + 50] ^= 1
    path.write_bytes(data)
    store = ImageStore(copy / "manifest.parquet", "train")
    with pytest.raises(LanitError, match="train-2.tar is not the shard that the manifest describes"):
        store.read(range(40))


# The order of samples


def test_two_threads_that_read_at_once_get_their_own_images(drawn, expected, monkeypatch):
    """Sample pictures are read while batches are loaded ahead, into one cache."""
    store = ImageStore(drawn.manifest, "train")
    halves = np.array_split(np.arange(len(store)), 2)
    keep = store._keep

    def slowly(rows, decoded):
        slot = store._cached
        time.sleep(0.05)  # another thread's turn
        assert store._cached == slot
        keep(rows, decoded)

    monkeypatch.setattr(store, "_keep", slowly)
    with ThreadPoolExecutor(2) as threads:
        read = list(threads.map(store.read, halves))
    for rows, images in zip(halves, read):
        for found in (images, store.read(rows)):
            assert np.array_equal(found.numpy(), expected[rows])


def test_every_image_comes_once_in_an_epoch():
    seen = np.concatenate([sample_indices(37, 0, step, 8, "content") for step in range(37)])
    for epoch in seen.reshape(8, 37):
        assert sorted(epoch) == list(range(37))
    assert not np.array_equal(seen[:37], seen[37:74]), "each epoch has its own order"


def test_samples_depend_on_seed_and_role_and_nothing_else():
    first = sample_indices(1000, seed=1, step=5, batch=64, role="content")
    sample_indices(1000, seed=9, step=0, batch=64, role="style")
    assert first.dtype == np.int64
    assert np.array_equal(first, sample_indices(1000, 1, 5, 64, "content"))
    assert not np.array_equal(first, sample_indices(1000, 2, 5, 64, "content"))
    assert not np.array_equal(first, sample_indices(1000, 1, 5, 64, "style"))


def test_the_order_stays_the_same_in_every_version():
    order = sample_indices(10, seed=0, step=0, batch=10, role="content")
    assert order.tolist() == [2, 6, 3, 1, 9, 0, 8, 7, 4, 5]


def test_a_batch_larger_than_the_pool_spans_epochs():
    assert np.bincount(sample_indices(3, 0, 0, 9, "content")).tolist() == [3, 3, 3]


def test_an_empty_pool_is_an_error():
    with pytest.raises(ValueError, match="empty"):
        sample_indices(0, 0, 0, 4, "content")


# Evenly over domains

MEMBERS = [np.array([7]), np.arange(100, 110), np.arange(1000, 3000)]  # rows of one image, of ten and of two thousand


def test_domains_are_drawn_equally_often_whatever_their_sizes_and_their_images_too():
    drawn = np.concatenate([balanced_indices(MEMBERS, 0, step, 32, "source") for step in range(300)])
    counts = np.array([np.isin(drawn, rows).sum() for rows in MEMBERS])
    assert counts.sum() == 9600 and (abs(counts - 3200) < 4 * (9600 * 2 / 9) ** 0.5).all()
    of_ten = np.bincount(drawn[np.isin(drawn, MEMBERS[1])] - 100, minlength=10)
    assert (abs(of_ten - of_ten.mean()) < 4 * of_ten.mean() ** 0.5).all()
    assert len(np.unique(drawn[drawn >= 1000])) > 0.75 * 2000  # with replacement: 1 − exp(−1.6) of them


def test_a_balanced_draw_is_a_function_of_seed_step_and_role():
    first = balanced_indices(MEMBERS, 1, 5, 64, "source")
    balanced_indices(MEMBERS, 9, 0, 64, "reference")
    assert first.dtype == np.int64 and np.array_equal(first, balanced_indices(MEMBERS, 1, 5, 64, "source"))
    for others in ((2, 5, 64, "source"), (1, 6, 64, "source"), (1, 5, 64, "reference")):
        assert not np.array_equal(first, balanced_indices(MEMBERS, *others))
    assert balanced_indices(MEMBERS, 0, 0, 6, "source").tolist() == [
        106,
        7,
        1042,
        1755,
        2018,
        108,
    ]  # the same in every version


def test_an_image_of_a_given_domain_is_drawn_from_that_domain_and_from_all_of_it():
    domains = np.array([0, 1, 2, 1] * 16)
    drawn = np.stack([balanced_indices(MEMBERS, 0, step, 64, "second_reference", domains) for step in range(20)])
    for n, rows in enumerate(MEMBERS):
        assert np.isin(drawn[:, domains == n], rows).all()
    assert set(drawn[:, domains == 1].flat) == set(MEMBERS[1])


# Loading ahead


def test_prefetching_keeps_the_order_and_loads_ahead():
    ahead = threading.Event()

    def load(step):
        if step == 2:
            ahead.set()
        return step * step

    batches = prefetch(load, range(6), depth=2)
    assert next(batches) == 0
    assert ahead.wait(5), "steps 1 and 2 load while step 0 is used"
    assert list(batches) == [1, 4, 9, 16, 25]


def test_an_error_while_loading_is_raised_at_its_step():
    def load(step):
        if step == 2:
            raise LanitError("the disk is gone")
        return step

    batches = prefetch(load, range(5))
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(LanitError, match="the disk is gone"):
        next(batches)


def test_closing_ends_the_thread():
    batches = prefetch(lambda step: step, iter(int, 1))  # steps without end
    next(batches)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


# Augmentation


def rng(count: int, seed: int = 0) -> BatchRng:
    return BatchRng(seed, 0, 0, count, count)


def test_augmentation_without_crop_and_flip_changes_nothing():
    images = torch.rand(4, 3, 8, 8)
    assert torch.equal(augment(images, rng(4), crop=False, flip=False), images)


def test_flip_mirrors_about_half_of_the_images():
    images = torch.rand(400, 3, 4, 4)
    flipped = augment(images, rng(400), crop=False, flip=True)
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    assert (mirrored | (flipped == images).flatten(1).all(1)).all()
    assert 150 < mirrored.sum() < 250


def test_crop_keeps_80_to_100_percent_of_about_half_of_the_images():
    side = torch.linspace(-1, 1, 65)[:-1] + 1 / 64  # each pixel holds its own coordinates
    y, x = torch.meshgrid(side, side, indexing="ij")
    images = torch.stack([x, y, torch.zeros_like(x)]).expand(400, 3, 64, 64)
    cropped = augment(images, rng(400), crop=True, flip=False)
    changed = (cropped != images).flatten(1).any(1)
    assert 150 < changed.sum() < 250
    middle = cropped[changed][:, :, 16:48, 16:48]  # away from the border, where coordinates stop
    width = (middle[:, 0, 0, -1] - middle[:, 0, 0, 0]) / (x[0, 47] - x[0, 16])
    height = (middle[:, 1, -1, 0] - middle[:, 1, 0, 0]) / (x[0, 47] - x[0, 16])
    assert (width * height).min() > 0.79 and (width * height).max() < 1.0001
    assert (width / height).min() > 0.89 and (width / height).max() < 1.11
    corner = middle[:, 0, 0, 0] - width * (x[0, 16] + 1)  # left edge of the box
    assert corner.min() > -1.001 and (corner + 2 * width).max() < 1.001, "boxes lie within the image"
    assert corner.std() > 0.01


def test_augmentation_is_a_function_of_the_draws_and_of_an_images_place_in_the_whole_batch():
    images = torch.rand(8, 3, 16, 16)
    first = augment(images, rng(8, seed=3), crop=True, flip=True)
    assert torch.equal(first, augment(images, rng(8, seed=3), crop=True, flip=True))
    assert not torch.equal(first, augment(images, rng(8, seed=4), crop=True, flip=True))
    parts = [augment(images[i : i + 4], BatchRng(3, 0, i, 4, 8), crop=True, flip=True) for i in (0, 4)]
    torch.testing.assert_close(torch.cat(parts), first)
