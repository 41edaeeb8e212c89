"""What the third verb minimises: GRPO over the drawn steps, or DiffusionNFT over the finished images.

An objective has a number of passes over an image (its drawn steps, or noise levels) and gives each row's loss in one of
them, with what is worth logging. The loss, the log-probability and the divergence are of the target's latents alone:
the transformer returns no velocity for the reference's tokens.

Legend: B rows, C latent channels, h/w latent height/width, J passes.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from unipic2_data.randomness import keyed_normal, keyed_uniform
from unipic2_dit import flow, sampling, sde
from unipic2_train.rl import policy
from unipic2_train.rl.config import KERNELS
from unipic2_train.rl.nft import nft_loss

if TYPE_CHECKING:
    from collections.abc import Iterator

    from unipic2_data.batch import Batch
    from unipic2_train.rl.config import RLConfig
    from unipic2_train.rl.layout import Layout
    from unipic2_train.rl.rollout import Rollout

__all__ = ["GRPO", "NFT", "Objective", "reference_policy"]

Terms = dict[str, Tensor]


class Objective(Protocol):
    """A loss in several passes."""

    num_passes: int

    def __call__(self, rows: Rollout, advantage: Tensor, number: int) -> tuple[Tensor, Terms]:
        """Return each row's loss in pass ``number``, (B,), and its detached parts, (B,) each."""
        ...


@contextmanager
def reference_policy(transformer: Any) -> Iterator[None]:
    """Switch the adapter off for the block: the model that the run started from."""
    transformer.disable_adapters()
    try:
        with torch.no_grad():
            yield
    finally:
        transformer.enable_adapters()


class GRPO:
    """Flow-GRPO's loss (Liu et al. 2025, arXiv 2505.05470, eq. 6; UniPic 2.0, eq. 2) of one drawn step.

    ::

        w_i trust_region(r_i, A)  +  kl.weight D(policy, reference),     log r_i = log p(x') - log p_old(x')

    Args:
        transformer: The policy in training.
        config: Dynamics, trust region, divergence.
        window: The drawn steps.
        sigmas: Noise levels of the sampler, (T + 1,).
    """

    def __init__(self, transformer: nn.Module, config: RLConfig, window: range, sigmas: Tensor) -> None:
        self.transformer, self.config, self.window = transformer, config, window
        rollout = config.rollout
        self.weights = policy.step_weights(config.grpo.step_weights, sigmas, rollout.dynamics, rollout.level)
        self.num_passes = len(window)

    def __call__(self, rows: Rollout, advantage: Tensor, number: int) -> tuple[Tensor, Terms]:
        """Return loss and parts of the window's step ``number``."""
        state, kl = rows.at(number), self.config.kl
        reference = None
        if kl.weight:
            with reference_policy(self.transformer):
                reference = sampling.velocity(self.transformer, state)
        velocity = sampling.velocity(self.transformer, state)
        transition = self._transition(state, velocity)
        log_ratio = sde.log_prob(transition, rows.path[number + 1]) - rows.log_probs[number]
        result = self._trust_region(rows, number, transition, log_ratio, advantage)
        loss = self.weights[self.window[number]].item() * result.loss
        terms = {
            "policy_loss": result.loss,
            "held_share": result.held,
            "approximate_kl": 0.5 * log_ratio**2,
            "abs_log_ratio": log_ratio.abs(),
        }
        if reference is not None:
            there = self._transition(state, reference)
            terms["kl"] = policy.divergence(kl.kind, transition, there, (velocity, reference))
            loss = loss + kl.weight * terms["kl"]
        return loss, {name: value.detach().float() for name, value in terms.items()}

    def _transition(self, state: sampling.DenoisingState, velocity: Tensor) -> sde.Transition:
        sigma, after = (level.to(velocity.device).view(-1, 1, 1, 1) for level in (state.sigma, state.next_sigma))
        rollout = self.config.rollout
        return KERNELS[rollout.dynamics](state.latents, velocity, sigma, after, rollout.level)

    def _trust_region(
        self, rows: Rollout, number: int, transition: sde.Transition, log_ratio: Tensor, advantage: Tensor
    ) -> policy.PolicyLoss:
        region, clip = self.config.grpo.trust_region, self.config.clip
        if region == "ppo_clip":
            return policy.ppo_clip(log_ratio, advantage, clip)
        shift = policy.mean_shift(transition, rows.means[number])
        if region == "ratio_norm":
            return policy.ratio_norm(log_ratio, advantage, clip, shift, transition.std.flatten())
        return policy.dppo_mask(log_ratio, advantage, clip, shift)


class NFT:
    """DiffusionNFT's loss (see ``nft``) of an image at one of its noise levels, and the pull to the reference.

    The levels of an image are spread evenly, one in each J-th of [0, 1] before the scheduler's shift.

    Args:
        transformer: The policy in training; while this is built, with the old policy's weights.
        config: beta, levels, divergence.
        rollout: This process's images.
        batch: The rows of the iteration.
        layout: Which images are this process's.
        shift: The scheduler's shift.
    """

    def __init__(
        self, transformer: nn.Module, config: RLConfig, rollout: Rollout, batch: Batch, layout: Layout, shift: float
    ) -> None:
        self.transformer, self.config = transformer, config
        self.num_passes = config.nft.levels
        keys, visits = layout.image_keys(batch), batch.visits[layout.group_of[layout.own]]
        device, shape = rollout.latents.device, rollout.latents.shape[1:]
        self.sigmas, self.noise, self.old = [], [], []
        for number in range(self.num_passes):
            uniform = keyed_uniform(config.seed, keys, visits, f"nft-level-{number}")
            self.sigmas.append(flow.shift_sigma((number + uniform) / self.num_passes, shift).to(device))
            self.noise.append(keyed_normal(config.seed, keys, visits, f"nft-noise-{number}", shape).to(device))
            self.old.append(self._old_velocities(rollout, number))

    def __call__(self, rows: Rollout, advantage: Tensor, number: int) -> tuple[Tensor, Terms]:
        """Return loss and parts at noise level ``number``."""
        index = rows.index.to(rows.latents.device)
        sigma, noisy, kl = self.sigmas[number][index], self._noisy(rows, number), self.config.kl
        reference = None
        if kl.weight:
            with reference_policy(self.transformer):
                reference = _velocity_at(self.transformer, rows, noisy, sigma)
        velocity = _velocity_at(self.transformer, rows, noisy, sigma)
        config = self.config
        loss, deviation = nft_loss(
            rows.latents,
            noisy,
            sigma,
            (velocity, self.old[number][index]),
            advantage,
            beta=config.nft.beta,
            clip=config.advantages.clip,
        )
        terms = {"policy_loss": loss, "prediction_deviation": deviation}
        if reference is not None:
            terms["kl"] = ((velocity - reference) ** 2).mean((1, 2, 3))
            loss = loss + kl.weight * terms["kl"]
        return loss, {name: value.detach().float() for name, value in terms.items()}

    def _noisy(self, rows: Rollout, number: int) -> Tensor:
        index = rows.index.to(rows.latents.device)
        return flow.interpolate(rows.latents, self.noise[number][index], self.sigmas[number][index])

    @torch.no_grad()
    def _old_velocities(self, rollout: Rollout, number: int) -> Tensor:
        parts = []
        for places in torch.arange(len(rollout)).split(self.config.rollout.micro_batch):
            rows = rollout.take(places)
            sigma = self.sigmas[number][places.to(rows.latents.device)]
            parts.append(_velocity_at(self.transformer, rows, self._noisy(rows, number), sigma))
        return torch.cat(parts)


def _velocity_at(transformer: nn.Module, rows: Rollout, noisy: Tensor, sigma: Tensor) -> Tensor:
    """Return the velocity, without guidance, at any noise levels."""
    state = rows.state
    predicted = transformer(
        hidden_states=noisy,
        ref_hidden_states=state.references,
        encoder_hidden_states=state.conditioning.prompt_embeds,
        pooled_projections=state.conditioning.pooled_projections,
        timestep=flow.MAX_TIMESTEP * sigma,
        return_dict=False,
    )[0]
    return predicted.float()
