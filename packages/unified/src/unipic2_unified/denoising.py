"""Where denoising begins, for all who sample: calls and servers, and in training validation, rollouts and labelling.

What pictures are made from differs: requests with seeds here, batches with keyed noise in training. From there on it is
one path: this state, then ``unipic2_dit.sampling``'s steps.

Legend: B rows, C latent channels, h/w latent height/width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from unipic2_dit import flow, sampling
from unipic2_dit.conditioning import Conditioning
from unipic2_dit.sampling import DenoisingState
from unipic2_dit.vae import spatial_factor

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler

    from unipic2_dit.transformer import SD3Transformer2DKontextModel

__all__ = ["Conditions", "begin", "latent_shape"]


class Conditions(NamedTuple):
    """What pictures are sampled from."""

    positive: Conditioning
    """The prompts, B rows."""
    negative: Conditioning | None
    """What guidance leads away from: B rows, or one for all; ``None`` without guidance."""
    references: Tensor | None
    """Scaled clean latents of the pictures to edit, (B, C, h', w'), or ``None``."""


def latent_shape(vae: AutoencoderKL, size: tuple[int, int]) -> tuple[int, int, int]:
    """Return the shape (C, h, w) of one picture's latents.

    Args:
        vae: The autoencoder.
        size: (height, width) of the picture in px.
    """
    factor = spatial_factor(vae)
    return int(vae.config.latent_channels), size[0] // factor, size[1] // factor


def begin(
    transformer: SD3Transformer2DKontextModel,
    scheduler: FlowMatchEulerDiscreteScheduler,
    noise: Tensor,
    conditions: Conditions,
    *,
    steps: int | Sequence[int],
    guidance: float | Sequence[float],
    generators: Sequence[torch.Generator | None] = (),
) -> DenoisingState:
    """Return the state at the start of denoising, on the device of the noise.

    Args:
        transformer: The DiT; its config says how many tokens a picture has.
        scheduler: The checkpoint's scheduler, the one source of the noise levels.
        noise: Standard normal, shape (B, C, h, w).
        conditions: What pictures are sampled from.
        steps: Denoising steps, of all rows or one each.
        guidance: Scale of classifier-free guidance, likewise.
        generators: One a row, for schedulers that draw noise on the way.

    Returns:
        The state, every row at index 0.

    Raises:
        ValueError: If the parts have different numbers of rows, or guidance has no negative prompt.
    """
    patch, device = int(transformer.config.patch_size), noise.device
    num_tokens = (noise.shape[-2] // patch) * (noise.shape[-1] // patch)
    each = [steps] * len(noise) if isinstance(steps, int) else steps
    levels = {count: flow.sampling_sigmas(count, scheduler, num_tokens=num_tokens) for count in set(each)}
    positive, negative, references = conditions
    return sampling.initial_state(
        noise,
        [levels[count] for count in each],
        positive.to(device),
        guidance=torch.tensor(guidance, dtype=torch.float32),
        negative=None if negative is None else negative.to(device),
        references=references,
        generators=generators,
    )
