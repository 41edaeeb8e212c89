"""Generate pictures for evaluation batches with fixed, keyed noise.

A picture depends on the model, the sample's key and the seed, never on its batch or rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unipic2_data.randomness import keyed_hash, keyed_normal
from unipic2_dit import sampling
from unipic2_unified.denoising import begin, latent_shape

if TYPE_CHECKING:
    from unipic2_data.batch import Batch
    from unipic2_dit.transformer import SD3Transformer2DKontextModel
    from unipic2_train.pictures import FrozenPictures

__all__ = ["SamplingConfig", "generate"]


@dataclass
class SamplingConfig:
    """How grids and scores are sampled during training."""

    steps: int = 50
    """Denoising steps."""
    guidance: float = 3.5
    """Scale of text-only classifier-free guidance; the reference stays in both branches."""
    seed: int = 0
    """Seed of the noise."""


@torch.no_grad()
def generate(
    transformer: SD3Transformer2DKontextModel, frozen: FrozenPictures, batch: Batch, config: SamplingConfig
) -> Tensor:
    """Generate one picture per row, from its prompt and, for edits, its reference.

    Args:
        transformer: The Kontext DiT.
        frozen: VAE, scheduler, and what turns prompts into conditioning.
        batch: B rows; pixels are not looked at.
        config: Steps, guidance and seed.

    Returns:
        Pictures, uint8 (B, H, W, 3), on the CPU.
    """
    shape = latent_shape(frozen.vae, batch.size)
    state = begin(
        transformer,
        frozen.scheduler,
        keyed_normal(config.seed, batch.keys, [0] * len(batch), "sampling-noise", shape).to(frozen.device),
        frozen.conditions(batch, guided=config.guidance > 1),
        steps=config.steps,
        guidance=config.guidance,
        generators=[_generator(config.seed, key) for key in batch.keys],
    )
    return frozen.decode(sampling.denoise(transformer, state, dynamics=sampling.dynamics_of(frozen.scheduler)))


def _generator(seed: int, key: str) -> torch.Generator:
    """Return a sample's own generator, for schedulers that draw noise on the way."""
    return torch.Generator().manual_seed(int.from_bytes(keyed_hash(seed, key, "sampling-steps")[:8], "little") >> 1)
