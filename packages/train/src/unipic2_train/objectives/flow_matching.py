"""The rectified-flow objective of pre-training and fine-tuning (UniPic 2.0 report, section 3; Esser et al. 2024).

With clean latents ``x_0``, noise ``e`` and noise level ``s`` (1 = noise, 0 = data) the transformer reads
``x_s = (1 - s) x_0 + s e`` and is trained to predict the velocity ``e - x_0``:

    loss = mean over rows of  w * mean((v(x_s, s, prompt, reference) - (e - x_0))^2).

Noise, noise level and dropout of a row are functions of (seed, sample key, visit), never of a global generator. So two
processes train like one, and a resumed run goes on exactly.

Legend: B rows, C latent channels, h/w latent height/width, S fixed noise levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from unipic2_data.randomness import keyed_normal, keyed_uniform
from unipic2_dit import flow

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from unipic2_dit.conditioning import Conditioning
    from unipic2_train.pictures import EncodedBatch

__all__ = ["FlowMatchingConfig", "FlowMatchingLoss", "dropped_prompts", "flow_matching_loss", "loss_at_levels"]


@dataclass
class FlowMatchingConfig:
    """How noise levels are drawn and what is dropped."""

    weighting: Literal["logit_normal", "uniform"] = "logit_normal"
    """Density of the noise levels before the scheduler's shift."""
    text_dropout: float = 0.1
    """Share of rows whose prompt becomes the empty prompt, for text-only guidance."""
    reference_dropout: float = 0.0
    """Share of edit batches' rows whose reference becomes zeros (off, as in the released system)."""
    validation_levels: int = 4
    """Noise levels, evenly spaced before the shift, of the validation loss."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("text_dropout", "reference_dropout"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                msg = f"objective.{name} must be in [0, 1], not {getattr(self, name)}"
                raise ValueError(msg)


class FlowMatchingLoss(NamedTuple):
    """The loss and what monitors need of it."""

    loss: Tensor
    """Scalar to minimise."""
    per_row: Tensor
    """Unweighted mean squared error of each row, detached, (B,)."""
    sigma: Tensor
    """Noise level of each row, (B,)."""


def flow_matching_loss(
    transformer: Callable[..., tuple[Tensor]],
    batch: EncodedBatch,
    config: FlowMatchingConfig,
    *,
    shift: float,
    seed: int,
) -> FlowMatchingLoss:
    """Return the training loss of a batch.

    The mean is over the batch's rows whatever their weights, so that ranks with quarantined rows (weight 0) still
    average to the loss of the global batch.

    Args:
        transformer: The Kontext DiT.
        batch: Encoded batch of B rows.
        config: The objective.
        shift: The scheduler's shift.
        seed: Seed of the run.
    """
    sigma = flow.training_sigmas(_uniform(batch, seed, "sigma"), config.weighting, shift)
    noise = _noise(batch, seed, "noise")
    conditioning = batch.conditioning
    if batch.unconditional is not None:
        dropped = dropped_prompts(batch.keys, batch.visits, config, seed).to(batch.latents.device)
        conditioning = batch.unconditional.where(dropped, conditioning)
    references = batch.references
    if references is not None and config.reference_dropout > 0:
        kept = _uniform(batch, seed, "reference-dropout") >= config.reference_dropout
        references = references * kept.view(-1, 1, 1, 1)
    per_row = _error(transformer, batch.latents, noise, sigma, conditioning, references)
    return FlowMatchingLoss((per_row * batch.weight).mean(), per_row.detach(), sigma)


def dropped_prompts(keys: Sequence[str], visits: Tensor, config: FlowMatchingConfig, seed: int) -> Tensor:
    """Tell which rows' prompts become the empty prompt at this visit, bool (B,) on the CPU."""
    return keyed_uniform(seed, keys, visits, "text-dropout") < config.text_dropout


@torch.no_grad()
def loss_at_levels(
    transformer: Callable[..., tuple[Tensor]],
    batch: EncodedBatch,
    config: FlowMatchingConfig,
    *,
    shift: float,
) -> Tensor:
    """Return the loss of every row at fixed noise levels and fixed noise, (B, S): comparable across runs."""
    levels = (torch.arange(config.validation_levels) + 0.5) / config.validation_levels
    noise = _noise(batch, 0, "validation-noise")
    columns = []
    for sigma in flow.shift_sigma(levels, shift):
        rows = sigma.expand(len(batch.keys)).to(batch.latents.device)
        columns.append(_error(transformer, batch.latents, noise, rows, batch.conditioning, batch.references))
    return torch.stack(columns, dim=1)


def _noise(batch: EncodedBatch, seed: int, purpose: str) -> Tensor:
    shape: Sequence[int] = batch.latents.shape[1:]
    return keyed_normal(seed, batch.keys, batch.visits, purpose, shape).to(batch.latents.device)


def _uniform(batch: EncodedBatch, seed: int, purpose: str) -> Tensor:
    return keyed_uniform(seed, batch.keys, batch.visits, purpose).to(batch.latents.device)


def _error(
    transformer: Callable[..., tuple[Tensor]],
    latents: Tensor,
    noise: Tensor,
    sigma: Tensor,
    conditioning: Conditioning,
    references: Tensor | None,
) -> Tensor:
    """Return the mean squared error of the predicted velocity of each row, (B,)."""
    prompt_embeds, pooled = conditioning
    predicted = transformer(
        hidden_states=flow.interpolate(latents, noise, sigma),
        ref_hidden_states=references,
        encoder_hidden_states=prompt_embeds,
        pooled_projections=pooled,
        timestep=flow.MAX_TIMESTEP * sigma,
        return_dict=False,
    )[0]
    return (predicted.float() - flow.velocity_target(latents, noise)).square().flatten(1).mean(1)
