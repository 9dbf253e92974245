"""Terms that several methods share, each a pure function of tensors; a method's own terms stand in its file.

Labels d are multi-hot, float (B, N) in {0, 1}, with at least one active domain an image. Terms are float32 or better
whatever precision the networks run in.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def aggregate(styles: Tensor, labels: Tensor) -> Tensor:
    """a: the mean of the style codes of an image's active domains, Σ_n d_n s_n / Σ_n d_n.

    For one-hot labels it is the code of the image's domain.

    Args:
        styles: s (B, N, S).
        labels: d (B, N).

    Returns:
        (B, S).
    """
    return torch.einsum("bn,bns->bs", labels / labels.sum(1, keepdim=True), styles)


def adversarial(logits: Tensor, weights: Tensor, real: bool) -> Tensor:
    """Σ of −log D_n(y) for `real`, −log(1 − D_n(y)) otherwise, D = sigmoid of the logits (StarGAN v2's; LANIT, eq. 5).

    The generator minimises the `real` form on its translations: the non-saturating loss of StarGAN v2.

    Args:
        logits: (B, N).
        weights: (B, N) of the (image, domain) pairs; zero where a domain is not active.
        real: the form.
    """
    logits = precise(logits)
    return (weights * F.softplus(-logits if real else logits)).sum()


def distance(first: Tensor, second: Tensor) -> Tensor:
    """Mean absolute difference: of cycle, style reconstruction and diversification (LANIT, eqs. 7 to 9)."""
    return (precise(first) - precise(second)).abs().mean()


def r1_penalty(logits: Tensor, images: Tensor, labels: Tensor, heads: str) -> Tensor:
    """½ E‖∇_y D(y)‖² on real images (Mescheder et al., ICML 2018).

    Args:
        logits: (B, N), computed from `images`, which require gradients.
        images: y (B, 3, H, W).
        labels: d (B, N).
        heads: D(y) is the `"sum"` of the logits of an image's active domains, or their `"mean"`.
    """
    weights = labels if heads == "sum" else labels / labels.sum(1, keepdim=True)
    (gradient,) = torch.autograd.grad((logits * weights).sum(), images, create_graph=True)
    return 0.5 * gradient.square().sum(dim=(1, 2, 3)).mean()


def precise(values: Tensor) -> Tensor:
    """The values in float32 or better."""
    return values if values.dtype == torch.float64 else values.float()
