"""TUNIT's networks: shapes and sizes, style's reach, and normalisations against their definitions."""

import pytest
import torch
import torch.nn.functional as F

from lanit.networks.tunit import Discriminator, Generator, GuidingNetwork, _FilterResponseNorm


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("size", [16, 32, 64])
def test_shapes_at_every_size(size):
    images = torch.rand(3, 3, size, size) * 2 - 1
    styles, logits = GuidingNetwork(size, 5, style=12, base=4)(images)
    assert styles.shape == (3, 12) and logits.shape == (3, 5)
    generator = Generator(size, style=12, base=4, bottleneck=8, residual_blocks=1, hidden=8)
    content = generator.encode(images)
    assert content.shape == (3, 4 * size // 8, 8, 8)
    output = generator(images, styles)
    assert output.shape == images.shape and output.abs().max() <= 1
    assert Discriminator(size, 5, base=4, max_width=16)(images, torch.tensor([0, 4, 2])).shape == (3,)


def test_sizes_of_the_papers_networks_at_128_pixels():
    with torch.device("meta"):
        guiding, generator, discriminator = GuidingNetwork(128, 10), Generator(128), Discriminator(128, 10)
    # VGG-11's features have 9,220,480 parameters, of which 2,752 are biases that batch normalisation makes superfluous
    assert count(guiding.convolutions) == 9_220_480 - 2_752 and count(guiding.norms) == 2 * 2_752
    assert [m.num_features for m in guiding.norms] == [64, 128, 256, 256, 512, 512, 512, 512]
    assert len(guiding.halved) == 5 and generator.residuals[0].first.convolution.in_channels == 512
    assert 20e6 < count(generator) < 40e6 and 40e6 < count(discriminator) < 100e6


def test_translation_follows_content_and_style():
    generator = Generator(32, style=6, base=8, bottleneck=8, hidden=16)
    images, styles = torch.rand(2, 3, 32, 32) * 2 - 1, torch.randn(2, 6)
    original = generator(images, styles)
    assert not torch.allclose(original, generator(images, styles.flip(0)), atol=1e-3)
    assert not torch.allclose(original, generator(images.flip(0), styles), atol=1e-3)
    torch.testing.assert_close(original[:1], generator(images[:1], styles[:1]))  # samples do not mix


def test_adain_gives_each_channel_the_styles_mean_and_deviation():
    block = Generator(32, style=6, base=8, bottleneck=8).expansions[0]
    x, offset, gain = torch.randn(2, 32, 16, 16), torch.randn(2, 16, 1, 1), torch.rand(2, 16, 1, 1) + 0.5
    y = block(x, offset, gain)
    torch.testing.assert_close(y.mean((2, 3)), offset[:, :, 0, 0], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(y.std((2, 3), correction=0), gain[:, :, 0, 0], atol=1e-3, rtol=1e-3)


def test_filter_response_norm_against_its_definition():
    norm = _FilterResponseNorm(4).double()
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    for n in range(2):
        for c in range(4):
            nu = sum(float(v) ** 2 for v in x[n, c].flatten()) / 25
            y = norm.gain[c] * x[n, c] / (nu + 1e-6) ** 0.5 + norm.offset[c]
            torch.testing.assert_close(norm(x)[n, c], torch.maximum(y, norm.threshold[c].expand(5, 5)))


def test_discriminator_reads_the_output_of_each_images_cluster():
    discriminator = Discriminator(16, 4, base=4, max_width=16)
    images, clusters = torch.rand(3, 3, 16, 16), torch.tensor([3, 0, 2])
    every = torch.stack([discriminator(images, torch.full((3,), k)) for k in range(4)], dim=1)
    torch.testing.assert_close(discriminator(images, clusters), every[torch.arange(3), clusters])
    assert every.std(1).min() > 0


def test_untracked_batches_leave_the_running_statistics_alone():
    network = GuidingNetwork(16, 3, style=4, base=4)
    images = torch.rand(8, 3, 16, 16)
    before = {name: value.clone() for name, value in network.named_buffers()}
    untracked = network(images, track=False)
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())
    tracked = network(images)
    assert not torch.equal(network.norms[0].running_mean, before["norms.0.running_mean"])
    for a, b in zip(untracked, tracked):
        torch.testing.assert_close(a, b)
    network.eval()
    torch.testing.assert_close(network(images, track=False)[0], network(images)[0])


def test_max_pooling_before_relu_is_the_usual_order():
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(F.max_pool2d(x, 2).relu(), F.max_pool2d(x.relu(), 2))
