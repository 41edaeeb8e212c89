"""The small autoencoder's objective: reconstruction and a weak pull of the posterior towards the normal distribution.

loss = mean over rows of  w * (mean |y - x| + mean (y - x)^2 + kl_weight * KL(q(z | x) || N(0, 1)) / pixels)

Legend: B rows, w weight of a row, H/W height and width in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from unipic2_data.randomness import keyed_normal

if TYPE_CHECKING:
    from unipic2_data.batch import Batch

__all__ = ["AutoencoderConfig", "AutoencoderLoss", "AutoencoderObjective", "autoencoder_loss"]


@dataclass
class AutoencoderConfig:
    """Architecture of a small AutoencoderKL."""

    block_out_channels: list[int]
    """Channels at each resolution; every one after the first halves it."""
    latent_channels: int
    """Channels of the latents."""
    norm_groups: int = 8
    """Groups of the group norms."""
    sample_size: int = 32
    """Edge of the pictures it is made for, in pixels."""

    def build(self, seed: int) -> AutoencoderKL:
        """Return a new autoencoder whose weights depend on the seed alone."""
        levels = len(self.block_out_channels)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * levels,
                up_block_types=("UpDecoderBlock2D",) * levels,
                block_out_channels=tuple(self.block_out_channels),
                layers_per_block=1,
                latent_channels=self.latent_channels,
                norm_num_groups=self.norm_groups,
                sample_size=self.sample_size,
                mid_block_add_attention=False,
                # As in SD3's autoencoder.
                use_quant_conv=False,
                use_post_quant_conv=False,
            )


@dataclass
class AutoencoderObjective:
    """Weights of the loss."""

    kl_weight: float = 1e-2
    """Weight of the KL divergence per pixel value."""


class AutoencoderLoss(NamedTuple):
    """The loss and what the monitor needs of it."""

    loss: Tensor
    """Scalar to minimise."""
    per_row: Tensor
    """Unweighted reconstruction error of each row, detached, (B,)."""


def autoencoder_loss(
    vae: AutoencoderKL, batch: Batch, objective: AutoencoderObjective, seed: int | None
) -> AutoencoderLoss:
    """Return the loss of a batch's target pictures, (B, 3, H, W) in [-1, 1].

    The mean is over the batch's rows whatever their weights, as in `flow_matching_loss`: a quarantined row (weight 0)
    adds nothing, and ranks still average to the loss of the global batch.

    Args:
        vae: The autoencoder.
        batch: Samples with pixels.
        objective: Weights.
        seed: Seed of the posterior's noise, keyed by sample and visit; ``None`` takes the posterior's mode.
    """
    assert batch.pixels is not None
    pixels = batch.pixels.to(vae.device, memory_format=torch.channels_last)
    posterior = vae.encode(pixels).latent_dist
    latents = posterior.mode()
    if seed is not None:
        noise = keyed_normal(seed, batch.keys, batch.visits, "posterior", latents.shape[1:])
        latents = latents + posterior.std * noise.to(latents.device)
    error = vae.decode(latents).sample - pixels
    per_row = (error.abs() + error.square()).flatten(1).mean(1)
    divergence = posterior.kl() / pixels[0].numel()
    rows = (per_row + objective.kl_weight * divergence) * batch.weight.to(per_row.device)
    return AutoencoderLoss(rows.mean(), per_row.detach())
