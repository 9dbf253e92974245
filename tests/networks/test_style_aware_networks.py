"""The style-aware discriminator's networks: shapes and sizes, what its blocks compute, and what reaches what."""

import math

import pytest
import torch
import torch.nn.functional as F

from lanit.networks.style_aware import Generator, Prototypes, StyleDiscriminator, _TrunkBlock
from lanit.settings.style_aware import StyleAwareNetwork

SMALL = StyleAwareNetwork(base_channels=4, max_channels=12, style_size=6, hidden_size=10, bottleneck=8)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("size", [16, 32, 64])
def test_shapes_at_every_size(size):
    images = torch.rand(3, 3, size, size) * 2 - 1
    logits, codes = StyleDiscriminator(size, SMALL)(images)
    assert logits.shape == (3,) and codes.shape == (3, 6)
    torch.testing.assert_close(codes.norm(dim=1), torch.ones(3))
    generator = Generator(size, SMALL)
    content = generator.encode(images)
    assert content.shape == (3, min(4 * size // 8, 12), 8, 8)
    assert generator.decode(content, codes).shape == images.shape
    assert Prototypes(5, 6)(codes).shape == (3, 5)


def test_numbers_of_parameters_are_the_released_codes_at_256_pixels():
    def conv(inputs, outputs, kernel, bias=True):
        return inputs * outputs * kernel**2 + (outputs if bias else 0)

    def residual(inputs, outputs):
        return conv(inputs, inputs, 3) + conv(inputs, outputs, 3) + (inputs * outputs if inputs != outputs else 0)

    def linear(inputs, outputs):
        return conv(inputs, outputs, 1)

    # Channels at 256, 128, … pixels: min(2^14 / size, 512).
    steps = [(64, 128), (128, 256), (256, 512), (512, 512)]
    trunk = conv(3, 64, 1) + sum(residual(*step) for step in [*steps, (512, 512), (512, 512)]) + conv(512, 512, 3)
    discriminator = trunk + linear(512, 512) + linear(512, 256) + linear(512, 512) + linear(512, 1)
    encoder = conv(3, 64, 1) + sum(residual(*step) for step in [*steps, (512, 512), (512, 512)])
    decoder = 0
    for narrow, wide in [(512, 512), (512, 512), *((b, a) for a, b in reversed(steps))]:
        adain = linear(512, 2 * narrow) + linear(512, 2 * wide)
        decoder += adain + conv(narrow, wide, 3) + conv(wide, wide, 3) + conv(wide, 3, 1)
    unused = conv(512, 3, 1)  # the first block's picture, which the second's replaces in the released code
    mapping = linear(256, 512) + linear(512, 512)
    with torch.device("meta"):
        options = StyleAwareNetwork()
        networks = [StyleDiscriminator(256, options), Generator(256, options), Prototypes(32, 256)]
    assert [count(network) for network in networks] == [discriminator, encoder + decoder + mapping - unused, 32 * 256]
    assert [discriminator, encoder + decoder + mapping - unused] == [19_671_873, 38_066_575]


def test_critic_and_style_share_one_trunk():
    discriminator = StyleDiscriminator(16, SMALL)
    images = torch.rand(3, 3, 16, 16) * 2 - 1
    logits, codes = discriminator(images)
    torch.testing.assert_close(discriminator.judge(images), logits)
    torch.testing.assert_close(discriminator.encode(images), codes)
    for output in (discriminator.judge(images).sum(), discriminator.encode(images)[:, 0].sum()):
        gradients = torch.autograd.grad(output, discriminator.trunk.parameters())
        assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_a_block_of_the_trunk_against_the_order_of_the_released_code():
    block = _TrunkBlock(3, 5).double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    residual = F.conv2d(x, block.conv1.weight, block.conv1.bias, padding=1)
    residual = torch.where(residual > 0, residual, 0.2 * residual)
    residual = F.conv2d(residual, block.conv2.weight, block.conv2.bias, padding=1)
    residual = torch.where(residual > 0, residual, 0.2 * residual)
    shortcut = torch.einsum(
        "oi,bihw->bohw", block.skip.weight[:, :, 0, 0], x
    )  # the 1x1 convolution, and then the pooling
    halved = (shortcut + residual).unflatten(3, (4, 2)).unflatten(2, (4, 2)).mean((3, 5))
    torch.testing.assert_close(block(x), halved / math.sqrt(2))


def test_content_has_mean_square_one_at_each_place():
    content = Generator(32, SMALL).encode(torch.rand(2, 3, 32, 32) * 2 - 1)
    torch.testing.assert_close(content.square().mean(1), torch.ones(2, 8, 8), atol=1e-4, rtol=1e-4)


def test_the_picture_is_the_sum_of_what_all_blocks_but_the_first_add():
    generator = Generator(32, SMALL)
    painting = [block.to_rgb for block in generator.decoder if block.to_rgb is not None]
    assert generator.decoder[0].to_rgb is None and len(painting) == len(generator.decoder) - 1 == 3
    for i, layer in enumerate(painting):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.constant_(layer.bias, 10.0**i)
    picture = generator(torch.rand(1, 3, 32, 32), F.normalize(torch.randn(1, 6), dim=1))
    torch.testing.assert_close(picture, torch.full_like(picture, 111.0))


def test_translation_follows_content_and_style():
    generator = Generator(32, SMALL)
    images, codes = torch.rand(2, 3, 32, 32) * 2 - 1, F.normalize(torch.randn(2, 6), dim=1)
    original = generator(images, codes)
    assert not torch.allclose(original, generator(images, codes.flip(0)), atol=1e-3)
    assert not torch.allclose(original, generator(images.flip(0), codes), atol=1e-3)
    alone = generator(images[:1], codes[:1])  # samples do not mix
    torch.testing.assert_close(original[:1], alone, atol=1e-4, rtol=1e-3)


def test_two_styles_share_an_image_along_the_mask():
    generator = Generator(32, SMALL)
    content = generator.encode(torch.rand(2, 3, 32, 32) * 2 - 1)
    one, other = F.normalize(torch.randn(2, 2, 6), dim=2)
    everywhere, left = torch.ones(2, 1, 8, 8), torch.zeros(2, 1, 8, 8)
    left[..., :4] = 1
    in_one, in_other = generator.decode(content, one), generator.decode(content, other)
    torch.testing.assert_close(generator.decode_mixed(content, one, other, everywhere), in_one)
    torch.testing.assert_close(generator.decode_mixed(content, one, other, 1 - everywhere), in_other)
    torch.testing.assert_close(generator.decode_mixed(content, one, one, left), in_one, atol=1e-5, rtol=1e-5)
    mixed = generator.decode_mixed(content, one, other, left)
    to_one, to_other = ((mixed - whole).abs().mean((0, 1, 2)) for whole in (in_one, in_other))  # (columns,)
    assert to_one[:16].sum() < 0.9 * to_other[:16].sum() and to_other[16:].sum() < 0.9 * to_one[16:].sum()


def test_prototypes_are_points_on_the_sphere():
    prototypes = Prototypes(7, 6)
    torch.testing.assert_close(prototypes.weight.norm(dim=1), torch.ones(7))
    codes = F.normalize(torch.randn(4, 6), dim=1)
    expected = [[float(code @ weight) for weight in prototypes.weight.detach()] for code in codes]
    torch.testing.assert_close(prototypes(codes).detach(), torch.tensor(expected))
    with torch.no_grad():
        prototypes.weight.mul_(torch.arange(1.0, 8)[:, None])
    before = prototypes.weight.clone()
    torch.testing.assert_close(prototypes.directions(), before / torch.arange(1.0, 8)[:, None])
    assert torch.equal(prototypes.weight, before)
    prototypes.normalise()
    torch.testing.assert_close(prototypes.weight.detach(), F.normalize(before.detach(), dim=1))


def test_heads_are_exact_under_autocast():
    discriminator, prototypes = StyleDiscriminator(16, SMALL), Prototypes(5, 6)
    images = torch.rand(3, 3, 16, 16) * 2 - 1
    with torch.autocast("cpu", torch.bfloat16):
        logits, codes = discriminator(images)
        scores = prototypes(codes)
    assert logits.dtype == codes.dtype == scores.dtype == torch.float32
    torch.testing.assert_close(codes.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(scores, codes @ prototypes.weight.T)
