"""DiffusionNFT's loss (Zheng et al. 2025, arXiv 2509.16117): reinforcement on the forward process.

It needs no log-probabilities and no trajectories, only finished latents x_0 and how good they are. With noise e and
noise level t, ``x_t = (1 - t) x_0 + t e``, the velocity of the policy in training and of the old one that sampled::

    v+ = (1 - b) v_old + b v            x_0+ = x_t - t v+
    v- = (1 + b) v_old - b v            x_0- = x_t - t v-
    r  = clip(1/2 + A / (2 c), 0, 1)    c: the clip of advantages
    L  = (c / b) (r mean((x_0+ - x_0)^2) / w+  +  (1 - r) mean((x_0- - x_0)^2) / w-),    w = stop_gradient(mean |...|)

A good image pulls the positive policy to it, a bad one pulls the negative policy, which mirrors the model, and so
pushes the model away.

Legend: B rows, C latent channels, h/w latent height/width.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["NFTLoss", "nft_loss"]

SMALLEST_WEIGHT = 1e-5


class NFTLoss(NamedTuple):
    """The loss of each row and how far the policies are apart."""

    loss: Tensor
    """To minimise, (B,)."""
    deviation: Tensor
    """``mean((v - v_old)^2)``, (B,): 0 means that the contrast of positive and negative teaches nothing."""


def nft_loss(
    latents: Tensor,
    noisy: Tensor,
    sigma: Tensor,
    velocities: tuple[Tensor, Tensor],
    advantage: Tensor,
    *,
    beta: float,
    clip: float,
) -> NFTLoss:
    """Return the loss of images at one noise level each.

    Args:
        latents: Finished latents x_0, (B, C, h, w).
        noisy: x_t, (B, C, h, w).
        sigma: Noise level t, (B,).
        velocities: Of the policy in training (with gradient) and of the old one, (B, C, h, w) each.
        advantage: A, (B,).
        beta: b.
        clip: c.
    """
    velocity, old = velocities[0], velocities[1].detach()
    quality = (0.5 + advantage / (2 * clip)).clamp(0, 1)
    level = sigma.view(-1, 1, 1, 1)

    def distance(direction: Tensor) -> Tensor:
        error = noisy - level * direction - latents
        weight = error.detach().abs().mean((1, 2, 3)).clamp(min=SMALLEST_WEIGHT)
        return (error**2).mean((1, 2, 3)) / weight

    positive = distance((1 - beta) * old + beta * velocity)
    negative = distance((1 + beta) * old - beta * velocity)
    loss = (clip / beta) * (quality * positive + (1 - quality) * negative)
    return NFTLoss(loss, ((velocity - old) ** 2).mean((1, 2, 3)).detach())
