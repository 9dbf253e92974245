"""Perceptual distances against their formula, written again in NumPy and float64, on random weights."""

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import nn

from lanit.networks import perceptual
from lanit.networks.judge import Judge
from lanit.networks.perceptual import Blur, ImageNetTrunk, JudgeTrunk, Perceptual


def fill(layers, seed):
    """Give layers without values random ones, those of a blur the binomial filter's."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, value in layers.state_dict().items():
        state[key] = torch.randn(value.shape, generator=generator) * 0.7 / max(1, value[:1].numel()) ** 0.5
        if key.endswith("filt"):
            state[key] = torch.tensor([1.0, 2, 1]).outer(torch.tensor([1.0, 2, 1])).expand(value.shape) / 16
    layers.load_state_dict(state, assign=True)
    return layers


def alexnet(enlarge_to=64, seed=0):
    layers = fill(perceptual.alexnet(), seed)
    weights = [torch.rand(width, generator=torch.Generator().manual_seed(width)) for width in perceptual.ALEXNET_WIDTHS]
    return Perceptual("lpips-test", ImageNetTrunk(layers, perceptual.ALEXNET_TAPS, enlarge_to), weights)


def shift_tolerant(seed=0):
    layers = fill(perceptual.shift_tolerant_alexnet(), seed)
    weights = [torch.rand(width, generator=torch.Generator().manual_seed(width)) for width in perceptual.ALEXNET_WIDTHS]
    return Perceptual("stlpips-test", ImageNetTrunk(layers, perceptual.SHIFT_TOLERANT_TAPS, 64), weights)


def convolve(x, weight, bias, stride, padding):
    """One image (C, H, W)."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    windows = sliding_window_view(x, weight.shape[-2:], (1, 2))[:, ::stride, ::stride]
    return np.einsum("cijkl,ockl->oij", windows, weight) + bias[:, None, None]


def maximum(x, stride):
    return sliding_window_view(x, (3, 3), (1, 2))[:, ::stride, ::stride].max((3, 4))


def blur(x):
    filter = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    windows = sliding_window_view(np.pad(x, ((0, 0), (2, 2), (2, 2)), mode="reflect"), (3, 3), (1, 2))
    return np.einsum("cijkl,kl->cij", windows[:, ::2, ::2], filter)


def maps_of_alexnet(image, state):
    """The five maps of an image (3, H, W) in [-1, 1], from the paper of AlexNet's "one weird trick" version."""
    x, maps = (image / 2 + 0.5 - np.array(MEAN)[:, None, None]) / np.array(DEVIATION)[:, None, None], []
    for i, (stride, padding) in {0: (4, 2), 3: (1, 2), 6: (1, 1), 8: (1, 1), 10: (1, 1)}.items():
        if i in (3, 6):
            x = maximum(x, 2)
        x = np.maximum(convolve(x, state[f"{i}.weight"], state[f"{i}.bias"], stride, padding), 0)
        maps.append(x)
    return maps


def maps_of_shift_tolerant(image, state):
    x, maps = (image / 2 + 0.5 - np.array(MEAN)[:, None, None]) / np.array(DEVIATION)[:, None, None], []
    for i, padding in {0: 2, 5: 2, 9: 1, 11: 1, 13: 1}.items():
        if i in (5, 9):
            x = blur(maximum(x, 1))
        x = convolve(x, state[f"{i}.weight"], state[f"{i}.bias"], 1, padding)
        x = np.maximum(blur(x) if i == 0 else x, 0)
        maps.append(x)
    return maps


MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def formula(maps, first, second, weights):
    """d of eq. 1 of the paper, position by position."""
    total = 0.0
    for a, b, w in zip(maps(first), maps(second), weights):
        a, b = (m / np.sqrt((m**2).sum(0, keepdims=True) + 1e-10) for m in (a, b))
        height, width = a.shape[1:]
        for i in range(height):
            for j in range(width):
                total += sum(w * (a[:, i, j] - b[:, i, j]) ** 2) / (height * width)
    return total


@pytest.mark.parametrize("make, maps", [(alexnet, maps_of_alexnet), (shift_tolerant, maps_of_shift_tolerant)])
def test_lpips_is_its_formula(make, maps):
    distance = make().double()
    state = {key: value.numpy() for key, value in distance.trunk.layers.state_dict().items()}
    weights = [w.numpy() for w in distance.weights]
    first, second = torch.rand(2, 2, 3, 66, 70, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    expected = [formula(lambda x: maps(x, state), a, b, weights) for a, b in zip(first.numpy(), second.numpy())]
    assert min(expected) > 0.1
    # ImageNet's mean and deviation are float32 numbers.
    torch.testing.assert_close(distance(first, second), torch.tensor(expected, dtype=torch.float64), rtol=1e-7, atol=0)
    single = distance.float()(first.float(), second.float())
    torch.testing.assert_close(single.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=0)


def judge(size=32):
    torch.manual_seed(0)
    judge = Judge(["bar", "spot"], False, size=size, width=4)
    for name, buffer in judge.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return judge


def of_judge():
    return Perceptual("judge-test", JudgeTrunk(judge()))


def pair(size=64, seed=0):
    return torch.rand(2, 3, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("make", [alexnet, shift_tolerant, of_judge])
def test_a_distance_is_symmetric_and_zero_where_nothing_differs(make):
    distance, (first, second) = make(), pair()
    there, back = distance(first, second), distance(second, first)
    assert there.shape == (3,) and there.dtype == torch.float32 and (there > 0.01).all()
    torch.testing.assert_close(there, back, rtol=0, atol=0)
    assert torch.equal(distance(first, first.clone()), torch.zeros(3))


@pytest.mark.parametrize("make", [alexnet, shift_tolerant, of_judge])
def test_each_image_has_the_distance_that_it_has_alone(make):
    distance, (first, second) = make(), pair()
    alone = torch.cat([distance(first[i : i + 1], second[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(distance(first, second), alone)


@pytest.mark.parametrize("make", [alexnet, shift_tolerant, of_judge])
def test_gradients_reach_the_images_and_no_weight(make):
    distance, (first, second) = make(), pair()
    first.requires_grad_(), second.requires_grad_()
    assert not any(module.training for module in make().modules())
    distance.train()
    assert not any(module.training for module in distance.modules())
    before = {name: value.clone() for name, value in distance.state_dict().items()}
    distance(first, second).sum().backward()
    for images in (first, second):
        assert images.grad.isfinite().all() and (images.grad.flatten(1).abs().sum(1) > 0).all()
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in distance.parameters())
    torch.testing.assert_close(dict(distance.state_dict()), before, rtol=0, atol=0)  # batch statistics too


def test_the_gradient_is_the_slope_of_the_distance():
    distance, (first, second) = of_judge().double(), pair(16).double()
    direction, step = torch.randn(second.shape, dtype=torch.float64), 1e-6
    (slope,) = torch.autograd.grad(distance(first, second.requires_grad_()).sum(), second)
    apart = distance(first, second + step * direction) - distance(first, second - step * direction)
    assert (slope * direction).sum().item() == pytest.approx(apart.sum().item() / (2 * step), rel=1e-4)


class Two(nn.Module):
    def forward(self, images):
        return [images, images[:, :, ::2, ::2] ** 3]


def test_features_that_vanish_have_a_slope():
    distance, (first, second) = Perceptual("two", Two()), pair(8)
    second[:, :, 3] = 0
    (slope,) = torch.autograd.grad(distance(first, second.requires_grad_()).sum(), second)
    assert slope.isfinite().all() and (slope != 0).all()


def test_small_images_are_enlarged_and_larger_ones_go_in_as_they_are():
    distance, (first, second) = alexnet(), pair(32)
    enlarged = [torch.nn.functional.interpolate(x, (64, 64), mode="bilinear") for x in (first, second)]
    torch.testing.assert_close(distance(first, second), distance(*enlarged))
    assert not torch.allclose(distance(first, second), alexnet(enlarge_to=96)(first, second))
    assert [x.shape[-1] for x in distance.trunk(pair(96)[0])][:2] == [23, 11]
    assert distance.trunk(pair(32)[0][..., :16])[0].shape[-2:] == (31, 15)  # 128 × 64 pixels


def test_without_learned_weights_a_distance_is_the_mean_of_two_minus_two_cosines():
    (first, second), distance = pair(8), Perceptual("two", Two())
    expected = sum(
        (2 - 2 * torch.cosine_similarity(a, b, dim=1)).mean((1, 2)) / 2
        for a, b in zip(Two()(first.double()), Two()(second.double()))
    )
    torch.testing.assert_close(distance(first, second).double(), expected, rtol=1e-4, atol=1e-6)


def test_a_blur_halves_and_leaves_what_is_even_as_it_is():
    blurred = Blur(2)
    blurred.filt.copy_(torch.tensor([1.0, 2, 1]).outer(torch.tensor([1.0, 2, 1])) / 16)
    x = torch.ones(1, 2, 8, 11) * torch.tensor([3.0, -1])[:, None, None]
    assert torch.equal(blurred(x), torch.ones(1, 2, 5, 7) * torch.tensor([3.0, -1])[:, None, None])


def test_the_last_map_of_a_judge_averages_to_its_features():
    network = judge().eval()
    images = torch.randint(256, (2, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    maps = network.maps(images / 127.5 - 1)
    assert [x.shape[1:] for x in maps] == [(4, 32, 32), (8, 16, 16), (16, 8, 8), (32, 4, 4)]
    torch.testing.assert_close(maps[-1].mean((2, 3)), network.features(images))


def test_building_draws_nothing_from_the_global_generator():
    before = torch.get_rng_state()
    assert all(value.is_meta for value in perceptual.alexnet().state_dict().values())
    perceptual.shift_tolerant_alexnet()
    assert torch.equal(before, torch.get_rng_state())
