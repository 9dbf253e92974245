"""The terms of LANIT's objective (Park et al., CVPR 2023, eqs. 5-10), each a pure function of tensors.

Labels d are multi-hot, float (B, N) in {0, 1}, with at least one active domain an image. Terms are float32 or better
whatever precision the networks run in.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lanit.data.draws import Draws


def aggregate(styles: Tensor, labels: Tensor) -> Tensor:
    """a: the mean of the style codes of an image's active domains, Σ_n d_n s_n / Σ_n d_n.

    Args:
        styles: s (B, N, S).
        labels: d (B, N).

    Returns:
        (B, S).
    """
    return torch.einsum("bn,bns->bs", labels / labels.sum(1, keepdim=True), styles)


def pair_weights(labels: Tensor, normalise: str, pairs: Tensor, share: float) -> Tensor:
    """Weights (B, N) of the (image, active domain) pairs in the adversarial term; zero where d is.

    `"image"` is eq. 5 as printed: the domains of an image are summed, and images averaged. `"pair"` averages over all
    pairs, so that the term keeps its size whatever N is. Both average over the whole batch, of which these B images
    are a part.

    Args:
        labels: d (B, N).
        normalise: `"image"` or `"pair"`.
        pairs: (), how many pairs the whole batch has.
        share: of these images in the whole batch.
    """
    return labels * (share / len(labels)) if normalise == "image" else labels / pairs


def adversarial(logits: Tensor, weights: Tensor, real: bool) -> Tensor:
    """Σ over pairs of −log D_n(y) for `real`, −log(1 − D_n(y)) otherwise, D = sigmoid of the logits (eq. 5, minimised).

    The generator minimises the `real` form on its translations: the non-saturating loss of StarGAN v2.
    """
    logits = _precise(logits)
    return (weights * F.softplus(-logits if real else logits)).sum()


def distance(first: Tensor, second: Tensor) -> Tensor:
    """Mean absolute difference: of eq. 7 (cycle), eq. 8 (style) and eq. 9 (diversification)."""
    return (_precise(first) - _precise(second)).abs().mean()


def r1_penalty(logits: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """½ E‖∇_y D(y)‖² on real images (Mescheder et al., ICML 2018), D(y) being the mean of the image's active heads.

    Args:
        logits: (B, N), computed from `images`, which require gradients.
        images: y (B, 3, H, W).
        labels: d (B, N).
    """
    output = (logits * labels / labels.sum(1, keepdim=True)).sum()
    (gradient,) = torch.autograd.grad(output, images, create_graph=True)
    return 0.5 * gradient.square().sum(dim=(1, 2, 3)).mean()


def flip_one(labels: Tensor, draws: Draws, slack: bool = False) -> tuple[Tensor, Tensor]:
    """Pick a domain n for each image and flip its entry (fig. 4): on → off as often as off → on where both can be.

    An image's only active domain is never switched off, since no domain would be left to take a style from, unless
    there is a slack domain: it is on where no candidate is, and never picked itself.

    Args:
        labels: d (B, N), on any device; with `slack`, its last column is the slack domain's.
        draws: decides.
        slack: is there a slack domain?

    Returns:
        n (B,) int64 and d_inv (B, N). Where no flip is possible (N = 1), d_inv = d.
    """
    candidates = labels[:, :-1] if slack else labels
    active, count = candidates > 0.5, candidates.shape[1]
    # A column of uniform numbers decides the direction, the others the domain within it.
    draw = draws.uniform(count + 1)
    on = active.sum(1, keepdim=True)
    can_switch_off, can_switch_on = on > (0 if slack else 1), on < count
    switch_off = can_switch_off & ((draw[:, :1] < 0.5) | ~can_switch_on)
    chosen = torch.where(active == switch_off, draw[:, 1:], -1.0).argmax(1)
    possible = (can_switch_off | can_switch_on).to(labels.dtype)
    picked = (torch.arange(count, device=labels.device) == chosen[:, None]).to(labels.dtype) * possible
    flipped = candidates + picked * (1 - 2 * candidates)
    if slack:
        flipped = torch.cat([flipped, (flipped.sum(1, keepdim=True) == 0).to(labels.dtype)], dim=1)
    return chosen, flipped


def domain_regularisation(
    translated: tuple[Tensor, Tensor], flipped: tuple[Tensor, Tensor], domain: Tensor, similarity: str, scale: float
) -> Tensor:
    """L_dl = H(d_n, f_n of ŷ) + H(d_inv,n, f_n of ŷ'), H = binary cross-entropy, averaged over images (fig. 4).

    Args:
        translated: d (B, N), and the similarities of ŷ: cosines with the domain texts and, last, with the base prompt,
            (B, M + 1).
        flipped: d_inv (B, N), and the similarities of ŷ' (B, M + 1).
        domain: n (B,) int64.
        similarity: `"cosine"` takes f_n itself as the probability, clamped to (0, 1), as in the paper: an image whose
            cosine is not positive feels no pull; `"logit"` takes sigmoid(τ (f_n − f_base)), for which the adaptive
            threshold is probability ½.
        scale: τ, CLIP's own logit scale.
    """
    return sum(_domain_entropy(d, f, domain, similarity, scale) for d, f in (translated, flipped))


def _domain_entropy(labels: Tensor, similarities: Tensor, domain: Tensor, similarity: str, scale: float) -> Tensor:
    target = labels.gather(1, domain[:, None]).squeeze(1)
    cosine = similarities.gather(1, domain[:, None]).squeeze(1)
    if similarity == "cosine":
        p = cosine.clamp(1e-4, 1 - 1e-4)
        return -(target * p.log() + (1 - target) * (1 - p).log()).mean()  # autocast forbids F.binary_cross_entropy
    return F.binary_cross_entropy_with_logits(scale * (cosine - similarities[:, -1]), target)


def _precise(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
