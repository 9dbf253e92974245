"""TUNIT's losses (Baek et al., ICCV 2021, Eq. 1 to 6), in the precision of what they are given, autocast or not."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lanit import ranks


def mutual_information(first: Tensor, second: Tensor) -> Tensor:
    """Mutual information (nats) between the clusters of two views of the same images, in [0, ln K]; Eq. 1, and IIC.

    It is that of the images of all processes, the same on each.

    Args:
        first, second: (B, K) cluster probabilities of the two views, B the same on all processes.
    """
    with torch.autocast(first.device.type, enabled=False):
        joint = ranks.total(first.T @ second)
    joint = (joint + joint.T) / (2 * first.shape[0] * ranks.count())  # (K, K), symmetric, sums to 1
    marginal = joint.sum(0)
    tiny = 1e-10  # an empty cluster adds nothing, and not NaN
    joint, marginal = joint.clamp_min(tiny), marginal.clamp_min(tiny).log()
    return (joint * (joint.log() - marginal[:, None] - marginal[None, :])).sum()


def contrastive_loss(queries: Tensor, keys: Tensor, negatives: Tensor, valid: Tensor, temperature: float) -> Tensor:
    """Mean InfoNCE of queries (B, S) with positive keys (B, S) and negatives (Q, S) where `valid` (Q,); Eq. 2 and 4.

    As in TUNIT, codes are not normalised; keys and negatives are constants.
    """
    positive = (queries * keys.detach()).sum(1, keepdim=True)
    with torch.autocast(queries.device.type, enabled=False):
        negative = (queries @ negatives.detach().T).masked_fill(~valid, -math.inf)
    logits = torch.cat([positive, negative], dim=1) / temperature
    return (logits.logsumexp(1) - logits[:, 0]).mean()


def hinge_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """The discriminator's hinge loss over logits (B,) at the images' own clusters; Eq. 3 in the form of the code."""
    return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()


def gradient_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Mean squared norm of the gradient of each image's logit (B,) by that image (B, 3, H, W); R1 without its half.

    The graph is kept, so that the penalty itself can be differentiated.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum() / images.shape[0]
