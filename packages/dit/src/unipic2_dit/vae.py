"""Pixels to latents and back, with the scale and shift that the transformer expects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

__all__ = ["decode", "encode", "spatial_factor"]


def encode(vae: AutoencoderKL, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Encode pixels to ``(z - shift) * scale``.

    z is the mode of the posterior, so that a picture has one encoding and a seed pins an edit; the released pipeline
    draws it with the global generator.

    Args:
        vae: The autoencoder.
        pixels: Pixels in [-1, 1], shape (B, 3, H, W); H and W multiples of the VAE's factor.
        generator: Draw z from the posterior with this generator instead.

    Returns:
        Latents, float32, shape (B, C, H / factor, W / factor).
    """
    posterior = vae.encode(pixels.to(vae.dtype)).latent_dist
    sample = posterior.mode() if generator is None else posterior.sample(generator)
    return (sample.float() - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor


def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Decode latents as ``encode`` makes them.

    Args:
        vae: The autoencoder.
        latents: Scaled latents, shape (B, C, h, w).

    Returns:
        Pixels, float32, nominally in [-1, 1] but not clamped, shape (B, 3, h * factor, w * factor).
    """
    unscaled = latents.float() / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
    return vae.decode(unscaled.to(vae.dtype)).sample.float()


def spatial_factor(vae: AutoencoderKL) -> int:
    """Return how many pixels one latent cell spans in each direction."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))
