"""Denoising steps that draw noise, and the log-probability of what they drew: what a policy gradient needs.

A step from noise level t to a lower s is a Gaussian over the next latents, x' ~ N(mean, std^2). Three dynamics choose
its mean and standard deviation from latents x and velocity v; between them stand the ends that a velocity points at::

    clean latents   x_0 = x - t v             noise   x_1 = x + (1 - t) v

::

    state = sampling.advance(state, velocity, sde.dynamics(sde.flow_sde, level=0.7))                  # rollout
    transition = sde.flow_sde(latents, new_velocity, sigma, next_sigma, 0.7)                          # training
    log_ratio = sde.log_prob(transition, next_latents) - stored_log_prob

``flow_sde`` and ``constant_eta`` are Euler-Maruyama steps of the reverse SDE with the marginals of the ODE,
``dx = (v + sigma_t^2 / (2 t) x_1) dt + sigma_t dw``; ``cps`` mixes old and fresh noise so that the coefficients of data
and noise stay those of the path. Two quantities that papers and code both call std keep apart here: ``diffusion`` is
sigma_t, a rate; ``std`` is ``sigma_t * sqrt(t - s)``, the deviation of the next latents.

The last step, to s = 0, is the ODE's in all three: noise added there would stay in the picture. (Flow-GRPO's injects
std 0.006 and leaves the step out of training, because ratios explode at such a std.) So it has no log-probability, and
``log_prob`` refuses it. Steps outside an SDE window are ``sampling.euler``, chosen by the caller.

Everything is float32, whatever the inputs are, and rows are independent.

Legend: B rows, C latent channels, h/w latent height/width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from unipic2_dit.sampling import Dynamics, Generators, draw_noise

__all__ = ["Kernel", "Transition", "constant_eta", "cps", "dynamics", "flow_sde", "log_prob", "log_prob_sum"]


class Transition(NamedTuple):
    """The distribution of the next latents: normal, independent in each element. All float32."""

    mean: Tensor
    """Mean of the next latents, shape (B, C, h, w)."""
    std: Tensor
    """Standard deviation of the next latents, ``sigma_t * sqrt(t - s)``, shape (B, 1, 1, 1); 0 in the last step."""
    diffusion: Tensor
    """Coefficient of the SDE, sigma_t: ``std`` without the length of the step, shape (B, 1, 1, 1)."""


Kernel = Callable[[Tensor, Tensor, Tensor, Tensor, float], Transition]
"""(latents, velocity, sigma, next sigma, level) -> distribution of the next latents; sigmas of shape (B, 1, 1, 1)."""


def flow_sde(latents: Tensor, velocity: Tensor, sigma: Tensor, next_sigma: Tensor, level: float) -> Transition:
    """Step as Flow-GRPO does (Liu et al. 2025, arXiv 2505.05470, eq. 9), the dynamics of UniPic 2.0.

    ::

        sigma_t = level * sqrt(t / (1 - t))           at t = 1: level * sqrt(1 / (1 - s))
        mean    = x + (v + sigma_t^2 / (2 t) x_1) (s - t)
                = x (1 + sigma_t^2 (s - t) / (2 t)) + v (1 + sigma_t^2 (1 - t) / (2 t)) (s - t)
        std     = sigma_t sqrt(t - s)

    The marginals are the ODE's in the limit of short steps. Ten steps add noise, a tenth of the variance and more on
    the way, which ``cps`` avoids. The first step from pure noise adds ``level^4 / 4`` however short it is, which later
    steps forget.

    Args:
        latents: Latents x at ``sigma``, shape (B, C, h, w).
        velocity: Their velocity, shape (B, C, h, w). Gradients flow to it through the mean.
        sigma: Noise level t in [0, 1], shape (B, 1, 1, 1). A row at 0 is done and stays.
        next_sigma: Lower noise level s, shape (B, 1, 1, 1).
        level: Noise level a of the paper, at least 0 (the ODE); UniPic 2.0 uses 0.7.

    Returns:
        The distribution of the next latents.

    Raises:
        ValueError: If shapes or level are wrong.
    """
    latents, velocity, sigma, next_sigma = _float32(latents, velocity, sigma, next_sigma)
    _check_level(level)
    # sigma_t is infinite at pure noise. Flow-GRPO measures the distance from it at the end of that step, and the std of
    # the first step is the level itself.
    distance = (1 - sigma).where(sigma < 1, 1 - next_sigma)
    return _euler_maruyama(latents, velocity, sigma, next_sigma, level * (sigma / distance).sqrt())


def constant_eta(latents: Tensor, velocity: Tensor, sigma: Tensor, next_sigma: Tensor, level: float) -> Transition:
    """Step as DanceGRPO does (Xue et al. 2025, arXiv 2505.07818): the same noise rate at all levels.

    ::

        sigma_t = level
        mean    = x + (v + level^2 / (2 t) x_1) (s - t)
        std     = level sqrt(t - s)

    Args:
        latents: Latents x at ``sigma``, shape (B, C, h, w).
        velocity: Their velocity, shape (B, C, h, w). Gradients flow to it through the mean.
        sigma: Noise level t in [0, 1], shape (B, 1, 1, 1). A row at 0 is done and stays.
        next_sigma: Lower noise level s, shape (B, 1, 1, 1).
        level: eta of the paper, at least 0 (the ODE); DanceGRPO uses 0.3.

    Returns:
        The distribution of the next latents.

    Raises:
        ValueError: If shapes or level are wrong.
    """
    latents, velocity, sigma, next_sigma = _float32(latents, velocity, sigma, next_sigma)
    _check_level(level)
    return _euler_maruyama(latents, velocity, sigma, next_sigma, sigma.new_full(sigma.shape, level))


def cps(latents: Tensor, velocity: Tensor, sigma: Tensor, next_sigma: Tensor, level: float) -> Transition:
    """Step by coefficients-preserving sampling (Wang and Yu 2025, arXiv 2509.05952).

    ::

        std  = s sin(level pi / 2)
        mean = (1 - s) x_0 + s cos(level pi / 2) x_1

    The noise in the next latents has size s exactly, in any number of steps. At level 0 it is the ODE's step, at 1
    ``sampling.renoise``. The noise doesn't shrink with the length of the step: finer schedules at the same level don't
    approach the ODE's marginals, unless the data is a point.

    Args:
        latents: Latents x at ``sigma``, shape (B, C, h, w).
        velocity: Their velocity, shape (B, C, h, w). Gradients flow to it through the mean.
        sigma: Noise level t in [0, 1], shape (B, 1, 1, 1). A row at 0 is done and stays.
        next_sigma: Lower noise level s, shape (B, 1, 1, 1).
        level: Share of fresh noise in [0, 1]; the paper uses 0.8.

    Returns:
        The distribution of the next latents; its ``diffusion`` is the rate that gives this std in this step.

    Raises:
        ValueError: If shapes or level are wrong.
    """
    latents, velocity, sigma, next_sigma = _float32(latents, velocity, sigma, next_sigma)
    _check_level(level, highest=1.0)
    clean = latents - sigma * velocity
    noise = latents + (1 - sigma) * velocity
    kept, fresh = math.cos(level * math.pi / 2), math.sin(level * math.pi / 2)
    std = next_sigma * fresh
    length = (sigma - next_sigma).where(next_sigma > 0, 1.0)
    return Transition(mean=(1 - next_sigma) * clean + next_sigma * kept * noise, std=std, diffusion=std / length.sqrt())


def dynamics(kernel: Kernel, level: float) -> Dynamics:
    """Return how a sampler steps that draws the next latents from a kernel.

    Args:
        kernel: ``flow_sde``, ``constant_eta`` or ``cps``.
        level: Its noise level.

    Returns:
        Dynamics for ``sampling.advance`` and ``sampling.denoise``: ``mean + std * noise``, each row's noise from its
        own generator. They raise ``ValueError`` if the rows have no generators, or the kernel refuses its input.
    """

    def draw(latents: Tensor, velocity: Tensor, sigma: Tensor, next_sigma: Tensor, generators: Generators) -> Tensor:
        if len(generators) != len(latents):
            msg = f"{len(generators)} generators for {len(latents)} rows: dynamics that draw noise need one a row."
            raise ValueError(msg)
        transition = kernel(latents, velocity, sigma, next_sigma, level)
        return transition.mean + transition.std * draw_noise(latents.shape[1:], generators, latents.device)

    return draw


def log_prob(transition: Transition, next_latents: Tensor) -> Tensor:
    """Return the log-density of the next latents, **mean over latent elements** (C, h, w), as in Flow-GRPO.

    ``-(x' - mean)^2 / (2 std^2) - log std - log(2 pi) / 2`` in each element, for every kernel. (Flow-GRPO's code drops
    the divisor and the constants for CPS: its clip ranges there belong to ``2 std^2`` times this log-ratio.)

    Args:
        transition: What a kernel returned for the latents before the step and the velocity in question.
        next_latents: The latents that the step drew, float32 as it drew them, shape (B, C, h, w). They are data: no
            gradient flows to them. A gradient through ``mean + std * noise`` would cancel the one of the mean.

    Returns:
        One number a row, float32, shape (B,).

    Raises:
        ValueError: If the latents have another shape, were rounded to another dtype, or a row has no noise.
    """
    return _log_density(transition, next_latents).mean(dim=(1, 2, 3))


def log_prob_sum(transition: Transition, next_latents: Tensor) -> Tensor:
    """Return the log-density of the next latents, the **sum over latent elements**; otherwise as ``log_prob``."""
    return _log_density(transition, next_latents).sum(dim=(1, 2, 3))


def _euler_maruyama(
    latents: Tensor, velocity: Tensor, sigma: Tensor, next_sigma: Tensor, diffusion: Tensor
) -> Transition:
    """Take a step of the reverse SDE with the given sigma_t; the last step is the ODE's."""
    diffusion = diffusion.masked_fill(next_sigma == 0, 0.0)
    noise = latents + (1 - sigma) * velocity
    # -x_1 / t is the score. A row at 0 has none, and no step left: any divisor but 0 keeps it finite.
    correction = diffusion**2 / (2 * sigma.where(sigma > 0, 1.0))
    step = next_sigma - sigma
    mean = latents + (velocity + correction * noise) * step
    return Transition(mean=mean, std=diffusion * (-step).sqrt(), diffusion=diffusion)


def _log_density(transition: Transition, next_latents: Tensor) -> Tensor:
    """Return the log-density of each element, shape (B, C, h, w)."""
    mean, std, _diffusion = transition
    if next_latents.shape != mean.shape or next_latents.dtype != mean.dtype:
        msg = (
            f"next_latents are {next_latents.dtype} of shape {tuple(next_latents.shape)}, expected {mean.dtype} of "
            f"shape {tuple(mean.shape)}: store them as they were drawn; rounding moves importance ratios away from 1."
        )
        raise ValueError(msg)
    noiseless = ~(std > 0).flatten()
    if bool(noiseless.any()):
        msg = (
            f"rows {noiseless.nonzero().flatten().tolist()} took a step without noise (the last step, a level of 0, or "
            "noise levels that do not fall), which has no log-probability: leave it out."
        )
        raise ValueError(msg)
    return -0.5 * ((next_latents.detach() - mean) / std) ** 2 - std.log() - 0.5 * math.log(2 * math.pi)


def _check_level(level: float, highest: float = math.inf) -> None:
    """Refuse a level outside [0, highest], infinite or not a number."""
    if not (0 <= level <= highest and math.isfinite(level)):
        limits = "at least 0" if math.isinf(highest) else f"in [0, {highest:g}]"
        msg = f"level is {level}: this kernel's noise level is a number {limits}."
        raise ValueError(msg)


def _float32(latents: Tensor, velocity: Tensor, sigma: Tensor, next_sigma: Tensor) -> tuple[Tensor, ...]:
    """Check the shapes, since a wrong one may still broadcast, and return all in float32."""
    shapes = [tuple(each.shape) for each in (latents, velocity, sigma, next_sigma)]
    column = (len(latents), 1, 1, 1)
    if latents.ndim != 4 or shapes[1:] != [shapes[0], column, column]:
        msg = (
            f"latents, velocity, sigma and next_sigma have the shapes {shapes}: expected (B, C, h, w) for the first "
            "two and (B, 1, 1, 1) for the noise levels."
        )
        raise ValueError(msg)
    return latents.float(), velocity.float(), sigma.float(), next_sigma.float()
