"""The drawn faces: reproducible, independent attributes, each of them plain to see at 32 pixels."""

from __future__ import annotations

import time

import numpy as np
import pytest

from lanit.data.faces import ATTRIBUTES, DrawnFaces, draw

FACES = DrawnFaces(images=400, seed=7)


def without_and_with(index: int, attribute: int) -> tuple[np.ndarray, np.ndarray]:
    """The same person with all else equal."""
    flags = FACES.truth()[index].copy()
    flags[attribute] = False
    without = FACES.image(index, flags, 32)
    flags[attribute] = True
    return without, FACES.image(index, flags, 32)


def test_there_are_sixteen_attributes_of_different_names():
    assert len(set(ATTRIBUTES)) == 16
    assert all(name == name.lower() and name.replace(" ", "").isalpha() for name in ATTRIBUTES)


def test_a_face_is_a_function_of_attributes_seed_and_size():
    flags = np.arange(16) % 3 == 0
    again = draw(flags, np.random.default_rng(5), 32)
    assert np.array_equal(draw(flags, np.random.default_rng(5), 32), again)
    assert not np.array_equal(draw(flags, np.random.default_rng(6), 32), again)


@pytest.mark.parametrize("size", [16, 32, 100, 256])
def test_a_face_has_the_size_asked_for(size):
    image = draw([False] * 16, np.random.default_rng(0), size)
    assert image.shape == (size, size, 3) and image.dtype == np.uint8


@pytest.mark.parametrize("attribute", range(16), ids=ATTRIBUTES)
def test_an_attribute_changes_several_pixels_whatever_else_the_face_has(attribute):
    for index in range(60):
        without, with_it = without_and_with(index, attribute)
        changed = np.abs(without.astype(int) - with_it).max(axis=2) > 40
        assert changed.sum() >= 6, f"face {index}"


@pytest.mark.parametrize("attribute", range(16), ids=ATTRIBUTES)
def test_an_attribute_can_be_told_from_the_pixels(attribute):
    """Beside all other variation: nearest neighbours in the pixels that it touches know it better than chance."""
    truth = FACES.truth()
    images = np.stack([FACES.image(i, truth[i], 32) for i in range(400)]).astype(np.float32)
    pairs = [without_and_with(i, attribute) for i in range(20)]
    touched = np.mean([np.abs(np.subtract(*pair, dtype=int)).sum(2) for pair in pairs], axis=0)
    pixels = images[:, touched >= np.sort(touched.ravel())[-24]].reshape(400, -1)
    distances = ((pixels[300:, None] - pixels[None, :300]) ** 2).sum(axis=2)
    nearest = truth[:300, attribute][np.argsort(distances, axis=1)[:, :5]].mean(axis=1) > 0.5
    right = nearest == truth[300:, attribute]
    balanced = np.mean([right[truth[300:, attribute] == value].mean() for value in (False, True)])
    assert balanced > 0.75


def test_attributes_are_independent_with_the_probability_asked_for():
    truth = DrawnFaces(images=20_000, seed=3, probability=0.3).truth()
    assert np.abs(truth.mean(axis=0) - 0.3).max() < 0.02
    assert np.abs(np.corrcoef(truth.T) - np.eye(16)).max() < 0.04


def test_draws_of_different_seeds_share_no_face():
    other = DrawnFaces(images=400, seed=8)
    pictures = {FACES.image(i, row, 32).tobytes() for i, row in enumerate(FACES.truth())}
    assert len(pictures) == 400
    assert not pictures & {other.image(i, row, 32).tobytes() for i, row in enumerate(other.truth())}


def test_people_never_have_an_attribute_by_accident():
    """Without attributes nothing is green skin, red hair or a blue background: those colours are the attributes'."""
    for index in range(200):
        red, green, blue = (FACES.image(index, [False] * 16, 32).astype(int)[..., c] for c in range(3))
        assert (blue[:2] - red[:2]).max() < 20, "background"
        assert (green - np.maximum(red, blue))[6:24, 10:22].max() < 60, "skin"
        assert (red - np.maximum(green, blue))[4:10].max() < 120, "hair"


def test_8000_faces_take_far_less_than_a_minute():
    start = time.process_time()
    for index in range(200):
        FACES.image(index, FACES.truth()[index], 32)
    assert (time.process_time() - start) * 40 < 60
