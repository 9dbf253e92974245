"""StarGAN v2's networks: the paper's sizes, and values for every domain at once."""

import pytest
import torch

from lanit.config import LanitError
from lanit.networks.stargan2 import Discriminator, Generator, Mapping, StyleEncoder
from lanit.settings.stargan2 import NetworkOptions

TINY = NetworkOptions(base_channels=4, max_channels=8, style_size=6, latent_size=5, hidden_size=7, bottleneck=4)


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_parameter_counts_are_the_papers():
    options = NetworkOptions()
    with torch.device("meta"):
        assert parameters(Generator(256, options)) == 33_892_995
        assert parameters(Mapping(10, options)) == 9_004_672
        assert parameters(StyleEncoder(256, 10, options)) == 21_179_584
        assert parameters(Discriminator(256, 10, options)) == 20_856_394


def test_shapes_hold_all_domains():
    images, latent = torch.zeros(2, 3, 16, 16), torch.zeros(2, 5)
    assert Mapping(3, TINY)(latent).shape == (2, 3, 6)
    assert StyleEncoder(16, 3, TINY)(images).shape == (2, 3, 6)
    assert Discriminator(16, 3, TINY)(images).shape == (2, 3)
    assert Generator(16, TINY)(images, torch.zeros(2, 6)).shape == images.shape


def test_each_mapping_branch_is_a_network_of_its_own():
    torch.manual_seed(0)
    mapping, latent = Mapping(3, TINY), torch.randn(4, 5)
    shared = mapping.shared(latent)
    for domain in range(3):
        x = shared
        for i, (weight, bias) in enumerate(zip(mapping.weights, mapping.biases)):
            x = (x if i == 0 else x.relu()) @ weight[domain] + bias[domain]
        torch.testing.assert_close(mapping(latent)[:, domain], x)


def test_style_changes_the_translation_and_content_does_too():
    torch.manual_seed(0)
    generator = Generator(16, TINY)
    images, styles = torch.randn(2, 3, 16, 16), torch.randn(2, 6)
    first = generator(images, styles)
    assert not torch.allclose(first, generator(images, styles.flip(0)), atol=1e-3)
    assert not torch.allclose(first, generator(images.flip(0), styles), atol=1e-3)
    torch.testing.assert_close(first, generator.decode(generator.encode(images), styles))


@pytest.mark.parametrize("size", [24, 4, 0])
def test_a_size_that_cannot_be_halved_is_an_error(size):
    with pytest.raises(LanitError, match="size"):
        Generator(max(size, 1), TINY)


def test_base_channels_of_none_are_the_released_codes_at_every_size():
    options = NetworkOptions(base_channels=None, max_channels=512)
    with torch.device("meta"):
        assert parameters(Generator(256, options)) == 33_892_995
        for size, channels in ((64, 256), (128, 128), (512, 32)):
            for network in (Generator(size, options).from_rgb, Discriminator(size, 3, options).trunk[0]):
                assert network.out_channels == channels
        assert Generator(128, NetworkOptions()).from_rgb.out_channels == 64
