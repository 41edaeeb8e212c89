"""What frozen encoders make of pictures and prompts, and the hashes by which a cache knows who made what it holds.

Legend: B rows, C latent channels, h/w latent height/width.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from unipic2_data.cache.build_latents import PictureEncoder
from unipic2_data.cache.build_text import TextEncoder
from unipic2_data.randomness import keyed_normal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from diffusers import AutoencoderKL
    from transformers import PreTrainedTokenizerBase

    from unipic2_data.batch import Batch
    from unipic2_dit.text import TextConditioner
    from unipic2_train.system import FrozenParts

__all__ = [
    "check_encoders",
    "draw",
    "frozen_hash",
    "identity_of",
    "moments",
    "picture_encoder",
    "scaled",
    "text_encoder",
    "weights_hash",
]


@torch.no_grad()
def moments(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Return mean and log-variance of the posterior, unscaled, float32 (B, 2, C, h, w)."""
    pixels = pixels.to(vae.dtype, memory_format=torch.channels_last)
    posterior = vae.encode(pixels).latent_dist
    return torch.stack([posterior.mean, posterior.logvar], dim=1).float()


def draw(values: Tensor, batch: Batch, seed: int | None) -> Tensor:
    """Return the mode of posteriors (B, 2, C, h, w), or a draw keyed by (seed, sample, visit), (B, C, h, w)."""
    mean, log_variance = values.unbind(1)
    if seed is None:
        return mean
    noise = keyed_normal(seed, batch.keys, batch.visits, "posterior", mean.shape[1:]).to(mean.device)
    return mean + (0.5 * log_variance).exp() * noise


def scaled(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Return ``(z - shift) * scale``, as `unipic2_dit.vae.encode` does."""
    return (latents.float() - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor


def picture_encoder(vae: AutoencoderKL) -> PictureEncoder:
    """Return the autoencoder's encoder for `unipic2_data.cache`."""
    return PictureEncoder(identity_of(vae), lambda pixels: moments(vae, pixels.to(vae.device)))


def text_encoder(frozen: FrozenParts) -> TextEncoder:
    """Return the text encoders for `unipic2_data.cache`."""

    def encode(prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        return tuple(frozen.embed(prompts))  # type: ignore[return-value]

    return TextEncoder(frozen.identity("text"), encode)


def check_encoders(batch: Batch, identity: Callable[[Literal["latents", "text"]], str]) -> None:
    """Refuse what other weights than a run's own have encoded.

    Raises:
        ValueError: The batch comes from a cache of other encoders.
    """
    for what in ("latents", "text"):
        made = batch.encoders.get(what)
        if made is not None and made != identity(what):
            msg = (
                f"the cached {what} were made by other encoders ({made[:12]}) than this run's ({identity(what)[:12]}). "
                "Run `lightning run encode` with this recipe and another data.cache.path, or train without data.cache."
            )
            raise ValueError(msg)


def weights_hash(*modules: nn.Module) -> str:
    """Return the sha256 of all weights and buffers, by name; of sharded ones, of this rank's share."""
    return _hash(pair for module in modules for pair in module.state_dict().items())


def frozen_hash(module: nn.Module) -> str:
    """Return the same of what training leaves as it is: buffers, and parameters that ask for no gradient."""
    values = module.state_dict()  # first: it gathers what is sharded where it belongs
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    return _hash((name, value) for name, value in values.items() if name not in trained)


def identity_of(encoder: AutoencoderKL | TextConditioner) -> str:
    """Return a hash of what decides an encoder's results: weights, and for text the tokenizers and lengths."""
    if isinstance(encoder, nn.Module):
        return weights_hash(encoder)
    facts = [weights_hash(*encoder.encoders()), str(encoder.t5_length), str(encoder.joint_attention_dim)]
    tokenizers = (encoder.tokenizer, encoder.tokenizer_2, encoder.tokenizer_3)
    facts += ["none" if tokenizer is None else _vocabulary(tokenizer) for tokenizer in tokenizers]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def _hash(values: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, value in values:
        digest.update(name.encode())
        local = value.to_local() if isinstance(value, DTensor) else value
        # reshape: a 1x1 convolution in channels_last is contiguous, yet its last stride is not 1.
        digest.update(local.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _vocabulary(tokenizer: PreTrainedTokenizerBase) -> str:
    words = sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(f"{tokenizer.model_max_length} {tokenizer.pad_token_id} {words}".encode()).hexdigest()
