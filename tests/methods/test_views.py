"""Views against torchvision's transformations of single images and against the geometry that they stand for."""

import math

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from torchvision.transforms import RandomResizedCrop

from lanit.data.rng import BatchRng
from lanit.methods.views import (
    ViewOptions,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    affine,
    crop,
    cut_out,
    first_fitting_box,
    second_view,
    style_views,
)
from lanit.settings.style_aware import StyleAwareViews

FORMS = {"crop": "centred", "border": "reflection"}
UNMOVED = dict.fromkeys(ViewOptions.__dataclass_fields__, 0.0) | FORMS
RELEASED = {"crop": "anywhere", "border": "black"}
STILL = dict.fromkeys(StyleAwareViews.__dataclass_fields__, 0.0) | {"first_crop": 1.0, "smallest_crop": 1.0}


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


@pytest.mark.parametrize("forms", [FORMS, RELEASED])
def test_views_are_a_function_of_the_draws_and_differ_between_images(forms):
    x = images(1).expand(8, -1, -1, -1) * 2 - 1
    first, again, other = (second_view(x, BatchRng(seed, 0, 0, 8, 8), ViewOptions(**forms)) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.min() >= -1 and first.max() <= 1
    assert all(not torch.equal(first[0], view) for view in first[1:])


@pytest.mark.parametrize("forms", [FORMS, RELEASED])
def test_a_part_of_a_batch_gets_the_views_that_it_has_in_the_whole(forms):
    x, options = images(8) * 2 - 1, ViewOptions(**forms)
    parts = [second_view(x[first : first + 2], BatchRng(3, 5, first, 2, 8), options) for first in range(0, 8, 2)]
    torch.testing.assert_close(torch.cat(parts), second_view(x, BatchRng(3, 5, 0, 8, 8), options))


def test_about_half_of_the_images_are_mirrored_and_nothing_else_is_asked_for():
    x = images(200, 4) * 2 - 1
    views = second_view(x, BatchRng(0, 0, 0, 200, 200), ViewOptions(**UNMOVED | {"mirror": 0.5}))
    mirrored = (views - x.flip(-1)).abs().amax((1, 2, 3)) < 1e-5
    assert (mirrored | ((views - x).abs().amax((1, 2, 3)) < 1e-5)).all() and 70 < mirrored.sum() < 130


@pytest.mark.parametrize("forms", [FORMS, RELEASED])
def test_no_change_asked_for_is_no_change(forms):
    x = images() * 2 - 1
    views = second_view(x, BatchRng(0, 0, 0, len(x), len(x)), ViewOptions(**UNMOVED | forms))
    torch.testing.assert_close(views, x, atol=1e-5, rtol=0)


# TUNIT's second view in the form of its released code


def test_a_box_is_the_first_that_fits_or_else_the_image():
    tries, place = torch.rand(400, 3, 2, generator=torch.Generator().manual_seed(0)), torch.full((400, 2), 0.25)
    centre, extent = first_fitting_box(tries, place, 0.1)
    whole = 0
    for i, row in enumerate(tries.tolist()):
        expected = (1.0, 1.0)
        for area, aspect in row:
            area, aspect = 0.9 + 0.2 * area, 0.9 * (1.1 / 0.9) ** aspect
            width, height = math.sqrt(area * aspect), math.sqrt(area / aspect)
            if width <= 1 and height <= 1:
                expected = width, height
                break
        whole += expected == (1.0, 1.0)
        assert extent[i].tolist() == pytest.approx(expected, abs=1e-5)
        assert centre[i].tolist() == pytest.approx([-0.5 * (1 - length) for length in expected], abs=1e-5)
    assert 20 < whole < 380


def test_boxes_are_distributed_as_torchvisions():
    count, size = 4000, 2000
    generator = torch.Generator().manual_seed(1)
    draws = torch.rand(count, 10, 2, generator=generator), torch.rand(count, 2, generator=generator)
    centre, extent = first_fitting_box(*draws, 0.1)
    torch.manual_seed(0)
    theirs = [RandomResizedCrop.get_params(torch.empty(1, size, size), [0.9, 1.1], [0.9, 1.1]) for _ in range(count)]
    top, left, height, width = torch.tensor(theirs).T / size
    ours = (extent[:, 0], extent[:, 1], extent.prod(1), centre[:, 0], centre[:, 1])
    assert abs(float((extent == 1).all(1).float().mean() - ((width == 1) & (height == 1)).float().mean())) < 0.01
    others = (width, height, width * height, 2 * left + width - 1, 2 * top + height - 1)
    for mine, other in zip(ours, others):
        shares = np.linspace(0.05, 0.9, 10)
        np.testing.assert_allclose(np.quantile(mine, shares), np.quantile(other, shares), atol=0.005)


def test_a_box_of_an_affine_map_is_torchvisions_crop_of_it():
    size = 64
    x = coordinates(1, size)
    box = torch.tensor([[0.125, -0.0625]]), torch.tensor([[0.5, 0.375]])
    shift = torch.tensor([[3.0, -2.0]]) / size
    number = torch.tensor
    ours = affine(x, number([12.0]), shift, number([6.0]), number([1.0]), number([1.0]), box)
    theirs = TF.affine(x, 12.0, [3, -2], 1.0, [6.0, 0.0], TF.InterpolationMode.BILINEAR)
    theirs = TF.resized_crop(theirs, top=18, left=20, height=24, width=32, size=[size, size], antialias=False)
    inner = (slice(None), slice(None), slice(2, -2), slice(2, -2))
    torch.testing.assert_close(ours[inner], theirs[inner], atol=1e-4, rtol=0)


def test_a_black_border_is_black():
    x, zero = images(1) * 2 - 1, torch.zeros(1)
    moved = affine(x, zero, torch.tensor([[0.25, 0.0]]), zero, torch.ones(1), torch.ones(1), border="black")
    assert (moved[..., :4] == -1).all()
    torch.testing.assert_close(moved[..., 4:], x[..., :-4])


def test_views_of_a_crop_anywhere_zoom_in_alone():
    views = second_view(
        coordinates(500), BatchRng(0, 0, 0, 500, 500), ViewOptions(**UNMOVED | RELEASED | {"zoom": 0.1})
    )
    width, height = extents(views)
    area, aspect = width * height, width / height
    assert max(width.max(), height.max()) < 1.0001 and 0.9 < area.min() < 0.92 and 0.9 < aspect.min() < 0.93
    assert 1.07 < aspect.max() < 1.1001 and 0.93 < area.mean() < 0.97
    middle = (views[:, :2, 7, 7] + views[:, :2, 8, 8]) / 2
    assert (middle.abs() + torch.stack([width, height], 1) < 1.0001).all() and (middle.std(0) > 0.01).all()
    zoomed = second_view(coordinates(500), BatchRng(0, 0, 0, 500, 500), ViewOptions(**UNMOVED | {"zoom": 0.1}))
    width, height = extents(zoomed)
    torch.testing.assert_close(width, height, atol=1e-4, rtol=0)
    assert width.min() < 0.92 and width.max() > 1.08


# The style-aware discriminator's


def test_crop_is_the_enlarged_box_of_the_rotated_and_zoomed_image():
    """On an image whose channels are its coordinates bilinear sampling is exact, and tells where a pixel came from."""
    size = 32
    places = (2 * torch.arange(size) + 1) / size - 1
    x = torch.stack([places.expand(size, size), places[:, None].expand(size, size), torch.zeros(size, size)])
    rotation, zoom = torch.tensor([30.0, -20.0]), torch.tensor([1.2, 1.0])
    centre, extent = torch.tensor([[0.1, -0.2], [0.0, 0.15]]), torch.tensor([[0.4, 0.5], [-0.5, 0.3]])
    views = crop(x.expand(2, -1, -1, -1), rotation, zoom, centre, extent)
    for i in range(2):
        turn = -math.radians(rotation[i])
        for row, column in ((0, 0), (5, 30), (31, 31), (16, 2)):
            across = float(centre[i, 0] + extent[i, 0] * places[column])
            down = float(centre[i, 1] + extent[i, 1] * places[row])
            expected = complex(across, down) * complex(math.cos(turn), math.sin(turn)) / float(zoom[i])
            assert views[i, 0, row, column] == pytest.approx(expected.real, abs=1e-5)
            assert views[i, 1, row, column] == pytest.approx(expected.imag, abs=1e-5)


def test_crop_agrees_with_torchvision():
    x, one = images(3, 32), torch.ones(3)
    centre, extent = torch.tensor([0.25, -0.125]).expand(3, 2), torch.tensor([0.5, 0.75]).expand(3, 2)
    ours = crop(x, torch.zeros(3), one, centre, extent)
    theirs = TF.resized_crop(x, top=2, left=12, height=24, width=16, size=[32, 32], antialias=False)
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))  # at a box's edge torchvision sees nothing outside
    torch.testing.assert_close(ours[inner], theirs[inner], atol=1e-5, rtol=1e-5)
    whole = torch.ones(3, 2)
    turned = crop(x, torch.tensor([20.0, -13.0, 90.0]), torch.tensor([1.0, 1.1, 1.0]), torch.zeros(3, 2), whole)
    for i, (angle, zoom) in enumerate(((20.0, 1.0), (-13.0, 1.1), (90.0, 1.0))):
        theirs = TF.affine(x[i], angle, [0, 0], zoom, [0.0, 0.0], TF.InterpolationMode.BILINEAR)
        inner = (slice(None), slice(10, -10), slice(10, -10))
        torch.testing.assert_close(turned[i][inner], theirs[inner], atol=1e-4, rtol=1e-4)


def test_cut_out_blackens_a_box_and_nothing_else():
    x = images(2, 16) * 2 - 1
    box = cut_out(x, torch.tensor([[0.25, -0.5], [0.0, 0.0]]), torch.tensor([[0.25, 0.5], [1.0, 1.0]]))
    expected = x.clone()
    expected[0, :, 0:8, 8:12] = -1  # across 0 to 0.5, down -1 to 0
    expected[1] = -1
    assert torch.equal(box, expected)


def test_each_style_view_is_of_one_image_and_has_its_own_draws():
    x = images(1).expand(8, -1, -1, -1) * 2 - 1
    (first, second), again, other = (
        style_views(x, BatchRng(seed, 0, 0, 8, 8), StyleAwareViews()) for seed in (3, 3, 4)
    )
    assert torch.equal(first, again[0]) and torch.equal(second, again[1])
    assert not torch.equal(first, other[0]) and not torch.equal(second, other[1]) and not torch.equal(first, second)
    for views in (first, second):
        assert views.shape == x.shape and views.min() >= -1 and views.max() <= 1
        assert all(not torch.equal(views[0], view) for view in views[1:])


def test_a_part_of_a_batch_gets_the_style_views_that_it_has_in_the_whole():
    x, options = images(8) * 2 - 1, StyleAwareViews(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.01)
    parts = [style_views(x[first : first + 2], BatchRng(3, 5, first, 2, 8), options) for first in range(0, 8, 2)]
    whole = style_views(x, BatchRng(3, 5, 0, 8, 8), options)
    for view in range(2):
        torch.testing.assert_close(torch.cat([part[view] for part in parts]), whole[view])


def test_style_views_without_changes_are_the_image():
    x = images() * 2 - 1
    for view in style_views(x, BatchRng(0, 0, 0, len(x), len(x)), StyleAwareViews(**STILL)):
        torch.testing.assert_close(view, x, atol=1e-5, rtol=0)


def test_half_of_the_first_views_show_one_square_of_the_image():
    views, _ = style_views(
        coordinates(400), BatchRng(0, 0, 0, 400, 400), StyleAwareViews(**{**STILL, "first_crop": 0.75})
    )
    width, height = extents(views)
    torch.testing.assert_close(width, height, atol=1e-4, rtol=0)
    cropped = (width - 0.75).abs() < 1e-4
    assert (cropped | ((width - 1).abs() < 1e-4)).all() and 160 < cropped.sum() < 240
    middle = views[cropped, :2].mean((2, 3))
    assert middle.abs().max() < 0.2501 and (middle.std(0) > 0.1).all()


def test_second_views_show_boxes_of_any_place_size_and_shape():
    options = StyleAwareViews(**{**STILL, "smallest_crop": 0.25})
    _, views = style_views(coordinates(500), BatchRng(0, 0, 0, 500, 500), options)
    width, height = extents(views)
    area, ratio = width * height, width / height
    assert 0.249 < area.min() < 0.27 and 0.97 < area.max() < 1.001 and 0.6 < area.mean() < 0.65
    assert 0.749 < ratio.min() < 0.77 and 1.3 < ratio.max() < 1.335 and 0.95 < ratio.mean() < 1.05
    middle = (views[:, :2, 7, 7] + views[:, :2, 8, 8]) / 2
    assert ((middle.abs() + torch.stack([width, height], 1)) < 1.001).all() and (middle.std(0) > 0.1).all()


def test_boxes_are_cut_out_of_as_many_second_views_as_asked_for():
    x = torch.ones(1000, 3, 64, 64)
    first, second = style_views(x, BatchRng(0, 0, 0, 1000, 1000), StyleAwareViews(**{**STILL, "cut_out": 0.8}))
    share = (second[:, 0] == -1).float().mean((1, 2))
    assert torch.equal(first, x) and ((second == 1) | (second == -1)).all()
    cut = share > 0
    assert 760 < cut.sum() < 840 and 0.2 < share[cut].mean() < 0.23
    assert 0.09 < share.masked_fill(~cut, 1).min() < 0.11 and 0.32 < share.max() < 0.345


def test_views_are_mirrored_turned_and_zoomed_as_often_as_asked_for():
    def make(seed, **changes):
        return style_views(coordinates(1000), BatchRng(seed, 0, 0, 1000, 1000), StyleAwareViews(**{**STILL, **changes}))

    for view in make(1, mirror=0.3):
        assert 250 < (view[:, 0, 8, 12] < 0).sum() < 350
    for view in make(2, rotation=30.0, applied=0.6):
        across = view[:, :2, 8, 9] - view[:, :2, 8, 8]  # the way of one pixel to the right
        angle = torch.rad2deg(torch.atan2(across[:, 1], across[:, 0]))
        turned = angle.abs() > 1e-3
        assert 550 < turned.sum() < 650 and 29 < angle.abs().max() <= 30.001 and angle[turned].mean().abs() < 2
    still, view = make(3, zoom=0.2, applied=0.6)
    zoom = 1 / extents(view)[0]
    assert 550 < ((zoom - 1).abs() > 1e-4).sum() < 650 and 0.7999 < zoom.min() < 0.81 and 1.19 < zoom.max() < 1.2001
    torch.testing.assert_close(still, coordinates(1000), atol=1e-5, rtol=0)


def test_colours_of_the_second_view_are_changed_for_a_share_of_the_images():
    x = images(400, 16) * 2 - 1
    options = StyleAwareViews(**{**STILL, "applied": 0.8, "contrast": 0.5, "hue": 0.1})
    first, second = style_views(x, BatchRng(0, 0, 0, 400, 400), options)
    torch.testing.assert_close(first, x, atol=1e-5, rtol=0)
    changed = (second - x).abs().amax((1, 2, 3)) > 1e-3
    assert 285 < changed.sum() < 355


def test_style_views_are_exact_under_autocast():
    x, options = images() * 2 - 1, StyleAwareViews(saturation=0.2)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = style_views(x, BatchRng(3, 0, 0, 6, 6), options)
    for ours, theirs in zip(rounded, style_views(x, BatchRng(3, 0, 0, 6, 6), options)):
        assert torch.equal(ours, theirs)


def extents(views):
    """Width and height (B,) of the boxes that views of coordinates show, from their innermost pixels."""
    half = views.shape[-1] // 2
    middle = views[:, :, half, half]
    width = half * (middle[:, 0] - views[:, 0, half, half - 1]).abs()
    return width, half * (middle[:, 1] - views[:, 1, half - 1, half]).abs()


def coordinates(count, size=16):
    """Images (count, 3, size, size) whose first two channels are x and y, from -1 to 1."""
    places = (2 * torch.arange(size) + 1) / size - 1
    x = torch.stack([places.expand(size, size), places[:, None].expand(size, size), torch.zeros(size, size)])
    return x.expand(count, -1, -1, -1)
