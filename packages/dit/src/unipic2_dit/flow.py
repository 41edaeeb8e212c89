"""Rectified-flow maths: the straight path between data and noise, and the noise levels on it.

Conventions: sigma 1 = noise .. 0 = data; ``timestep = 1000 * sigma``; ``velocity = noise - data``;
``x_sigma = (1 - sigma) * x_0 + sigma * noise``. Pure functions; noise levels are float32.

Legend: B batch, C latent channels, h/w latent height/width, T number of denoising steps.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import FlowMatchEulerDiscreteScheduler

__all__ = [
    "MAX_TIMESTEP",
    "denoised_from_velocity",
    "interpolate",
    "sampling_sigmas",
    "shift_sigma",
    "training_sigmas",
    "velocity_target",
]

MAX_TIMESTEP = 1000.0
"""The timestep of pure noise: what the transformer is told is ``MAX_TIMESTEP * sigma``."""


def interpolate(latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Return the noisy latents of the straight path, ``x_sigma = (1 - sigma) * x_0 + sigma * noise``.

    Args:
        latents: Clean latents x_0, scaled by the VAE factor, shape (B, C, h, w).
        noise: Standard normal, shape (B, C, h, w).
        sigma: Noise level in [0, 1] (1 = pure noise), shape (B,).

    Returns:
        Noisy latents, shape (B, C, h, w). The velocity target is ``noise - latents``.
    """
    sigma = _per_row(sigma, latents)
    return (1.0 - sigma) * latents + sigma * noise


def velocity_target(latents: Tensor, noise: Tensor) -> Tensor:
    """Return what the transformer learns to predict, ``noise - latents``, shape (B, C, h, w)."""
    return noise - latents


def denoised_from_velocity(noisy: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
    """Return the clean latents that a velocity points at, ``x_0 = x_sigma - sigma * velocity``.

    Args:
        noisy: Latents at ``sigma``, shape (B, C, h, w).
        velocity: Predicted velocity, shape (B, C, h, w).
        sigma: Noise level in [0, 1], shape (B,).

    Returns:
        The estimate of the clean latents, shape (B, C, h, w).
    """
    return noisy - _per_row(sigma, noisy) * velocity


def shift_sigma(sigma: Tensor, shift: float) -> Tensor:
    """Move noise levels towards noise, ``shift * sigma / (1 + (shift - 1) * sigma)`` (Esser et al. 2024, eq. 23).

    Args:
        sigma: Noise levels in [0, 1], any shape.
        shift: 1 changes nothing; SD3.5 and UniPic 2.0 use 3. Take it from ``scheduler_config.json``.

    Returns:
        Shifted noise levels, same shape; 0 and 1 stay.
    """
    return shift * sigma / (1.0 + (shift - 1.0) * sigma)


def training_sigmas(uniform: Tensor, weighting: Literal["logit_normal", "uniform"], shift: float) -> Tensor:
    """Map uniform random numbers to the noise levels of training.

    Args:
        uniform: Random numbers in the open interval (0, 1), shape (B,).
        weighting: ``"uniform"``, or ``"logit_normal"``: ``sigmoid(z)`` of a standard normal z, which favours the
            middle of the path (Esser et al. 2024, section 3.1).
        shift: The shift of ``scheduler_config.json``, so that training sees the levels that sampling visits.

    Returns:
        Noise levels in (0, 1), float32, shape (B,). Each is an increasing function of its random number.

    Raises:
        ValueError: If the weighting is unknown.
    """
    uniform = uniform.double()
    if weighting == "logit_normal":
        levels = torch.special.ndtri(uniform).sigmoid()
    elif weighting == "uniform":
        levels = uniform
    else:
        msg = f"Unknown sigma weighting {weighting!r}: use 'logit_normal' or 'uniform'."
        raise ValueError(msg)
    return shift_sigma(levels, shift).float()


def sampling_sigmas(
    num_steps: int, scheduler: FlowMatchEulerDiscreteScheduler, *, num_tokens: int | None = None
) -> Tensor:
    """Return the noise levels of a sampling run, exactly those of the checkpoint's scheduler.

    Args:
        num_steps: Number of denoising steps T, at least 1.
        scheduler: The checkpoint's scheduler, which holds the shift. It is not changed.
        num_tokens: Target tokens (patches) of the image; needed only by schedulers with ``use_dynamic_shifting``.

    Returns:
        Falling noise levels, float32, shape (T + 1,); the last is 0.

    Raises:
        ValueError: If ``num_steps`` is less than 1, or the shift depends on an image size that was not given.
    """
    if num_steps < 1:
        msg = f"num_steps is {num_steps}: sampling takes at least 1 step."
        raise ValueError(msg)
    # ``set_timesteps`` writes to the scheduler: on a copy, so that concurrent callers can share one.
    scheduler = copy.copy(scheduler)
    scheduler.set_timesteps(num_steps, mu=_dynamic_shift(scheduler, num_tokens))
    return scheduler.sigmas.float()


def _dynamic_shift(scheduler: FlowMatchEulerDiscreteScheduler, num_tokens: int | None) -> float | None:
    """Return the logarithmic shift of a scheduler whose shift grows linearly with the number of tokens."""
    config = scheduler.config
    if not config.use_dynamic_shifting:
        return None
    if num_tokens is None:
        msg = "This scheduler has use_dynamic_shifting: pass num_tokens, the patches of the target image."
        raise ValueError(msg)
    slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
    return config.base_shift + slope * (num_tokens - config.base_image_seq_len)


def _per_row(values: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1), on the device of ``like``."""
    return values.to(like.device).view(-1, *(1,) * (like.ndim - 1))
