"""The second view against torchvision's transformations of single images."""

import pytest
import torch
import torchvision.transforms.functional as TF

from lanit.data.rng import BatchRng
from lanit.methods.views import (
    ViewOptions,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    affine,
    second_view,
)


def images(count=6, size=16):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("ours", "theirs", "low", "high"),
    [
        (adjust_brightness, TF.adjust_brightness, 0.6, 1.4),
        (adjust_contrast, TF.adjust_contrast, 0.6, 1.4),
        (adjust_saturation, TF.adjust_saturation, 0.6, 1.4),
        (adjust_hue, TF.adjust_hue, -0.5, 0.5),
    ],
)
def test_colour_changes_agree_with_torchvision(ours, theirs, low, high):
    x = images()
    x[0] = 0.5  # grey has no hue
    factors = torch.linspace(low, high, len(x))
    expected = torch.stack([theirs(image, float(factor)) for image, factor in zip(x, factors)])
    torch.testing.assert_close(ours(x, factors), expected, atol=2e-6, rtol=1e-5)


def test_affine_map_agrees_with_torchvision_inside():
    size = 33
    x = images(4, size)
    rotation = torch.tensor([20.0, -13.0, 0.0, 7.0])
    shift = torch.tensor([[0.0, 0.0], [3.0, -2.0], [1.0, 2.0], [-3.0, 3.0]]) / size
    shear = torch.tensor([0.0, 8.0, -10.0, 5.0])
    zoom = torch.tensor([1.0, 1.1, 0.9, 1.05])
    ours = affine(x, rotation, shift, shear, zoom, torch.ones(4))
    for i in range(4):
        pixels = [int(v) for v in (shift[i] * size).round()]
        theirs = TF.affine(
            x[i], float(rotation[i]), pixels, float(zoom[i]), [float(shear[i]), 0.0], TF.InterpolationMode.BILINEAR
        )
        inner = (slice(None), slice(10, -10), slice(10, -10))  # outside, we reflect where torchvision fills
        torch.testing.assert_close(ours[i][inner], theirs[inner], atol=1e-4, rtol=1e-4)


def test_mirror_is_a_horizontal_flip():
    x, zero, one = images(2), torch.zeros(2), torch.ones(2)
    mirrored = affine(x, zero, torch.zeros(2, 2), zero, one, torch.tensor([-1.0, 1.0]))
    torch.testing.assert_close(mirrored[0], x[0].flip(-1))
    torch.testing.assert_close(mirrored[1], x[1])


def test_views_are_a_function_of_the_draws_and_differ_between_images():
    x = images(1).expand(8, -1, -1, -1) * 2 - 1
    first, again, other = (second_view(x, BatchRng(seed, 0, 0, 8, 8), ViewOptions()) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.min() >= -1 and first.max() <= 1
    assert all(not torch.equal(first[0], view) for view in first[1:])


def test_a_part_of_a_batch_gets_the_views_that_it_has_in_the_whole():
    x = images(8) * 2 - 1
    parts = [second_view(x[first : first + 2], BatchRng(3, 5, first, 2, 8), ViewOptions()) for first in range(0, 8, 2)]
    torch.testing.assert_close(torch.cat(parts), second_view(x, BatchRng(3, 5, 0, 8, 8), ViewOptions()))


def test_about_half_of_the_images_are_mirrored_and_nothing_else_is_asked_for():
    x = images(200, 4) * 2 - 1
    still = ViewOptions(**{**dict.fromkeys(ViewOptions.__dataclass_fields__, 0.0), "mirror": 0.5})
    views = second_view(x, BatchRng(0, 0, 0, 200, 200), still)
    mirrored = (views - x.flip(-1)).abs().amax((1, 2, 3)) < 1e-5
    assert (mirrored | ((views - x).abs().amax((1, 2, 3)) < 1e-5)).all() and 70 < mirrored.sum() < 130


def test_no_change_asked_for_is_no_change():
    x = images() * 2 - 1
    still = ViewOptions(**dict.fromkeys(ViewOptions.__dataclass_fields__, 0.0))
    torch.testing.assert_close(second_view(x, BatchRng(0, 0, 0, len(x), len(x)), still), x, atol=1e-5, rtol=0)
