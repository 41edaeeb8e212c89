"""The first verb: sample the images of an iteration and keep what training needs of how they came about.

Steps inside the SDE window draw ``x' ~ N(mean, std^2)`` from the policy's kernel (``unipic2_dit.sde``). The others are
those that the model itself is sampled with: the ODE's, ``x' = x + (s - t) v``, or under its scheduler's
``stochastic_sampling`` fresh noise on clean latents, ``x' = (1 - s) x_0 + s noise``; else the policy would learn on
pictures that nobody gets to see. Kept of a drawn step: latents before and after it, float32 as they were drawn, and the
log-probability of the draw. All noise is keyed by (seed, row, number in its group, visit), so an image depends neither
on its neighbours nor on the number of processes.

Legend: B images of this process, C latent channels, h/w latent height/width, S stochastic steps, T sampling steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from unipic2_data.randomness import keyed_normal
from unipic2_dit import sampling, sde
from unipic2_train.rl.config import KERNELS
from unipic2_train.rl.window import sde_window
from unipic2_unified.denoising import Conditions, begin, latent_shape

if TYPE_CHECKING:
    from unipic2_data.batch import Batch
    from unipic2_dit.sampling import DenoisingState
    from unipic2_dit.transformer import SD3Transformer2DKontextModel
    from unipic2_train.pictures import FrozenPictures
    from unipic2_train.rl.config import RLConfig
    from unipic2_train.rl.layout import Layout

__all__ = ["Rollout", "sample"]


@dataclass
class Rollout:
    """Sampled images and how they came about."""

    index: Tensor
    """Places among this process's images, int64 (B,)."""
    state: DenoisingState
    """Noise levels, prompts, references and guidance of the images; its latents are those at the start."""
    window: range
    """The stochastic steps."""
    path: Tensor
    """Latents before the first stochastic step and after each, float32 (S + 1, B, C, h, w)."""
    log_probs: Tensor
    """Log-probability of each drawn step, float32 (S, B)."""
    means: Tensor
    """Mean of each drawn step, (S, B, C, h, w), or (0, B, C, h, w) if the trust region does not look at it."""
    latents: Tensor
    """Finished latents, float32 (B, C, h, w)."""
    speed: Tensor
    """Root mean square of the velocity over steps and elements, (B,)."""

    def __len__(self) -> int:
        return len(self.index)

    def at(self, number: int) -> DenoisingState:
        """Return the state before stochastic step ``number`` (from 0, within the window)."""
        index = torch.full((len(self),), self.window[number], dtype=torch.int64)
        return replace(self.state, latents=self.path[number], index=index)

    def take(self, rows: Tensor) -> Rollout:
        """Return the rows that ``rows`` names (int64, on the CPU)."""
        there = rows.to(self.latents.device)
        return Rollout(
            index=self.index[rows],
            state=sampling.select(self.state, rows),
            window=self.window,
            path=self.path[:, there],
            log_probs=self.log_probs[:, there],
            means=self.means[:, there],
            latents=self.latents[there],
            speed=self.speed[there],
        )


@torch.no_grad()
def sample(
    transformer: SD3Transformer2DKontextModel,
    frozen: FrozenPictures,
    batch: Batch,
    layout: Layout,
    config: RLConfig,
    iteration: int,
) -> Rollout:
    """Sample this process's images of an iteration.

    Args:
        transformer: The policy.
        frozen: VAE, scheduler, and what turns prompts into conditioning.
        batch: The rows of the iteration, G; all of them on every process.
        layout: Which images are this process's.
        config: Sampling.
        iteration: Number of the iteration, which places the window.
    """
    start = _start(transformer, frozen, batch, layout, config)
    window = sde_window(config.rollout.window, config.rollout.steps, iteration, config.seed)
    keys, visits = layout.image_keys(batch), _visits(batch, layout)
    noisy = range(config.rollout.steps - 1) if frozen.scheduler.config.stochastic_sampling else window
    parts = []
    for rows in torch.arange(len(keys)).split(config.rollout.micro_batch):
        names, seen = [keys[row] for row in rows.tolist()], visits[rows]
        draws = {
            step: keyed_normal(config.seed, names, seen, f"rollout-step-{step}", start.latents.shape[1:])
            for step in noisy
        }
        parts.append(_roll(transformer, sampling.select(start, rows), rows, window, draws, config))
    return _joined(start, parts)


def _start(
    transformer: SD3Transformer2DKontextModel, frozen: FrozenPictures, batch: Batch, layout: Layout, config: RLConfig
) -> DenoisingState:
    """Return the state of this process's images at pure noise."""
    shape = latent_shape(frozen.vae, batch.size)
    noise = keyed_normal(config.seed, layout.image_keys(batch), _visits(batch, layout), "rollout-start", shape)
    groups = layout.group_of[layout.own]
    used, place = groups.unique(return_inverse=True)
    there = place.to(frozen.device)
    positive, negative, references = frozen.conditions(_chosen(batch, used), guided=config.rollout.guidance > 1)
    if negative is not None and len(negative.prompt_embeds) == len(used):  # or one for all
        negative = negative.rows(there)
    return begin(
        transformer,
        frozen.scheduler,
        noise.to(frozen.device),
        Conditions(positive.rows(there), negative, None if references is None else references[there]),
        steps=config.rollout.steps,
        guidance=config.rollout.guidance,
    )


def _chosen(batch: Batch, rows: Tensor) -> Batch:
    """Return the rows that ``rows`` names (int64, on the CPU): all that pictures are sampled from."""
    numbers = rows.tolist()
    references = None if batch.reference_bytes is None else batch.reference_bytes[rows.to(batch.reference_bytes.device)]
    return replace(
        batch,
        keys=[batch.keys[number] for number in numbers],
        prompts=[batch.prompts[number] for number in numbers],
        reference_bytes=references,
    )


def _roll(
    transformer: nn.Module,
    state: DenoisingState,
    rows: Tensor,
    window: range,
    draws: dict[int, Tensor],
    config: RLConfig,
) -> Rollout:
    """Take a micro-batch from noise to its end."""
    start, kernel, rollout = state, KERNELS[config.rollout.dynamics], config.rollout
    keeps_means = config.grpo.trust_region != "ppo_clip"
    path, log_probs, means, squares = [state.latents], [], [], state.latents.new_zeros(len(rows))
    for step in range(rollout.steps):
        velocity = sampling.velocity(transformer, state)
        squares += (velocity**2).mean((1, 2, 3))
        if step not in window:
            state = sampling.advance(state, velocity, _renoise(draws[step]) if step in draws else sampling.euler)
            if step < window.start:
                path = [state.latents]
            continue
        sigma, after = _column(state.sigma, velocity), _column(state.next_sigma, velocity)
        transition = kernel(state.latents, velocity, sigma, after, rollout.level)
        drawn = transition.mean + transition.std * draws[step].to(velocity.device)
        path.append(drawn)
        log_probs.append(sde.log_prob(transition, drawn))
        means += [transition.mean] if keeps_means else []
        state = replace(state, latents=drawn, index=state.index + 1)
    return Rollout(
        index=rows,
        state=start,
        window=window,
        path=torch.stack(path),
        log_probs=torch.stack(log_probs) if log_probs else squares.new_empty(0, len(rows)),
        means=torch.stack(means) if means else start.latents.new_empty(0, *start.latents.shape),
        latents=state.latents,
        speed=(squares / rollout.steps).sqrt(),
    )


def _renoise(noise: Tensor) -> sampling.Dynamics:
    """Return ``sampling.renoise`` with noise that is given, (B, C, h, w)."""

    def step(latents: Tensor, velocity: Tensor, sigma: Tensor, next_sigma: Tensor, _generators: Any) -> Tensor:
        return sampling.renoise_with(noise.to(latents.device), latents, velocity, sigma, next_sigma)

    return step


def _joined(start: DenoisingState, parts: list[Rollout]) -> Rollout:
    return Rollout(
        index=torch.cat([part.index for part in parts]),
        state=start,
        window=parts[0].window,
        path=torch.cat([part.path for part in parts], 1),
        log_probs=torch.cat([part.log_probs for part in parts], 1),
        means=torch.cat([part.means for part in parts], 1),
        latents=torch.cat([part.latents for part in parts]),
        speed=torch.cat([part.speed for part in parts]),
    )


def _visits(batch: Batch, layout: Layout) -> Tensor:
    return batch.visits[layout.group_of[layout.own]]


def _column(values: Tensor, like: Tensor) -> Tensor:
    """(B,) on the CPU -> (B, 1, 1, 1) on the device of ``like``."""
    return values.to(like.device).view(-1, 1, 1, 1)
