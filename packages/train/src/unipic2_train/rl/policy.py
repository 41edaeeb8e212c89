"""The policy gradient's parts as pure functions: trust regions, divergences and step weights.

A trained step drew ``x' ~ N(mean_old, std^2)`` from the policy that sampled; the policy in training gives it another
mean. Log-probabilities are means over latent elements (``unipic2_dit.sde.log_prob``). With ``r = exp(log p - log
p_old)`` and advantage A, each trust region turns a step into a loss to minimise; at the first update r = 1 in all of
them, and the gradient is REINFORCE's, ``-A grad log p`` (times std for ``ratio_norm``).

Legend: B rows, C latent channels, h/w latent height/width, T sampling steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from unipic2_train.rl.config import KERNELS

if TYPE_CHECKING:
    from unipic2_dit.sde import Transition

__all__ = ["PolicyLoss", "divergence", "dppo_mask", "mean_shift", "ppo_clip", "ratio_norm", "step_weights"]


class PolicyLoss(NamedTuple):
    """The loss of one step of each row and whether its trust region held it back."""

    loss: Tensor
    """To minimise, (B,)."""
    held: Tensor
    """Rows without gradient, bool (B,)."""


def ppo_clip(log_ratio: Tensor, advantage: Tensor, clip: float) -> PolicyLoss:
    """Return PPO's clipped loss (Schulman et al. 2017), ``max(-A r, -A clip(r, 1 - e, 1 + e))``.

    Args:
        log_ratio: ``log p - log p_old``, (B,).
        advantage: A, (B,).
        clip: e, in ratios of probabilities that are means over latent elements.
    """
    ratio = log_ratio.exp()
    free, clipped = -advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip)
    return PolicyLoss(torch.maximum(free, clipped), (clipped > free).detach())


def ratio_norm(log_ratio: Tensor, advantage: Tensor, clip: float, shift: Tensor, std: Tensor) -> PolicyLoss:
    """Return GRPO-Guard's loss (Wang et al. 2025, arXiv 2510.22319): ``ppo_clip`` of a ratio without bias and scale.

    The log-ratio of a Gaussian step is ``z (mean - mean_old) / std - (mean - mean_old)^2 / (2 std^2)``: its mean is
    below 0, so that a clip range works on one side, and its spread differs by step. With ``b`` the second term::

        r = exp((log p - log p_old + b) std)

    Args:
        log_ratio: ``log p - log p_old``, (B,).
        advantage: A, (B,).
        clip: e.
        shift: b of ``mean_shift``, (B,).
        std: Standard deviation of the step, (B,).
    """
    return ppo_clip((log_ratio + shift) * std, advantage, clip)


def dppo_mask(log_ratio: Tensor, advantage: Tensor, limit: float, shift: Tensor) -> PolicyLoss:
    """Return Flow-DPPO's loss (arXiv 2606.11025): ``-A r``, without what has gone too far and goes further.

    A row is held if its divergence from the old policy, b of ``mean_shift``, reaches ``limit`` and its ratio moves on:
    ``r > 1, A > 0`` or ``r < 1, A < 0``.

    Args:
        log_ratio: ``log p - log p_old``, (B,).
        advantage: A, (B,).
        limit: Largest divergence.
        shift: b, (B,).
    """
    held = ((shift >= limit) & (log_ratio * advantage > 0)).detach()
    return PolicyLoss((-advantage * log_ratio.exp()).masked_fill(held, 0.0), held)


def mean_shift(transition: Transition, other: Tensor) -> Tensor:
    """Return the divergence of two steps of equal std, ``mean((mean - other)^2) / (2 std^2)``, (B,)."""
    return ((transition.mean - other) ** 2).mean((1, 2, 3)) / (2 * transition.std.flatten() ** 2)


def divergence(kind: str, transition: Transition, reference: Transition, velocities: tuple[Tensor, Tensor]) -> Tensor:
    """Return how far a step is from the reference policy's.

    ::

        mu         mean((mean - mean_ref)^2) / (2 sigma_t^2)           Flow-GRPO's code since July 2025
        mu_dt      mean((mean - mean_ref)^2) / (2 sigma_t^2 dt)        the divergence itself: std^2 = sigma_t^2 dt
        velocity   mean((v - v_ref)^2)

    Args:
        kind: One of these.
        transition: The step of the policy in training.
        reference: The step of the reference from the same latents.
        velocities: Velocity of the policy in training, and of the reference, (B, C, h, w) each.

    Returns:
        One number a row, (B,), with gradients to the policy in training.
    """
    if kind == "velocity":
        return ((velocities[0] - velocities[1].detach()) ** 2).mean((1, 2, 3))
    spread = transition.diffusion if kind == "mu" else transition.std
    return ((transition.mean - reference.mean.detach()) ** 2).mean((1, 2, 3)) / (2 * spread.flatten() ** 2)


def step_weights(kind: str, sigmas: Tensor, dynamics: str, level: float) -> Tensor:
    """Return the weight of each step's policy loss, of mean 1 over the steps that can be trained.

    ::

        none         1
        tempflow     std_i = sigma_t sqrt(dt)        late steps, which move the mean most per std, count less
        inverse_dt   1 / dt                          GRPO-Guard: undoes the factor dt in the mean's gradient

    Args:
        kind: One of these.
        sigmas: Noise levels, (T + 1,).
        dynamics: Name of the kernel.
        level: Its noise level.

    Returns:
        Float32 (T - 1,).
    """
    now, after = sigmas[:-2].float(), sigmas[1:-1].float()
    if kind == "none":
        return torch.ones_like(now)
    if kind == "inverse_dt":
        weights = 1 / (now - after)
    else:
        column = now.view(-1, 1, 1, 1)
        nothing = torch.zeros_like(column)
        weights = KERNELS[dynamics](nothing, nothing, column, after.view(-1, 1, 1, 1), level).std.flatten()
    return weights / weights.mean()
