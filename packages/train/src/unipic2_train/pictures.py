"""The picture side of a frozen checkpoint, VAE and scheduler, and what a batch becomes for objective and sampler.

Who turns prompts into conditioning differs: text encoders (``system.FrozenParts``), or a VLM with queries and connector
(``metaquery.MetaQueryParts``).

Legend: B rows, C latent channels, h/w latent height/width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from unipic2_dit import checkpoint, vae
from unipic2_train import encoding

if TYPE_CHECKING:
    from typing import Self

    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler

    from unipic2_data.batch import Batch
    from unipic2_dit.conditioning import Conditioning
    from unipic2_unified.denoising import Conditions

__all__ = ["EncodedBatch", "FrozenPictures", "frozen_vae"]


@dataclass
class EncodedBatch:
    """A batch as the objective needs it.

    Attributes:
        kind: "t2i" or "edit".
        keys: Sample keys, B of them.
        visits: How often each sample was seen before, int64 (B,).
        latents: Scaled clean latents, float32 (B, C, h, w).
        references: Scaled clean latents of the reference, float32 (B, C, h', w'), or ``None``.
        conditioning: Embedded prompts, B rows.
        unconditional: The embedded empty prompt, one row; ``None`` if prompts were dropped before they were embedded.
        weight: Weight of each row in the loss, float32 (B,).
    """

    kind: str
    keys: list[str]
    visits: Tensor
    latents: Tensor
    references: Tensor | None
    conditioning: Conditioning
    unconditional: Conditioning | None
    weight: Tensor


class FrozenPictures(ABC):
    """VAE and scheduler of a checkpoint folder.

    Args:
        source: Checkpoint folder or hub id in the official layout.
        device: Where the VAE goes.
        dtype: Dtype of its weights.

    Raises:
        ValueError: The scheduler's shift depends on the size of a picture.
    """

    def __init__(
        self, source: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        self.folder = checkpoint.resolve_folder(source)
        self.vae = frozen_vae(self.folder, device, dtype)
        self.scheduler: FlowMatchEulerDiscreteScheduler = checkpoint.load_component(self.folder, "scheduler")
        if self.scheduler.config.use_dynamic_shifting:
            msg = (
                f"{self.folder / 'scheduler'} has use_dynamic_shifting: its shift grows with the picture, and training "
                "draws noise levels by one shift. Set use_dynamic_shifting false and the shift to train and sample by"
            )
            raise ValueError(msg)
        self._identities: dict[str, str] = {}

    @abstractmethod
    def encode(self, batch: Batch, posterior_seed: int | None = None) -> EncodedBatch:
        """Encode pixels and prompts of a batch, as far as a cache has not done so.

        Args:
            batch: Pixels or cached latents, prompts and perhaps their cached embeddings.
            posterior_seed: Draw the targets' latents from the posterior, keyed by this seed; by default its mode.

        Raises:
            ValueError: The batch has nothing to learn from, or was encoded by other weights.
        """

    @abstractmethod
    def conditions(self, batch: Batch, *, guided: bool = True) -> Conditions:
        """Return what pictures for a batch's prompts, and references, are sampled from; pixels are not looked at.

        What guidance leads away from is the empty prompt.

        Args:
            batch: B rows.
            guided: Whether there is guidance, which needs negative prompts.
        """

    @property
    def shift(self) -> float:
        """The scheduler's shift of noise levels, the one source for loss, validation and sampling."""
        return float(self.scheduler.config.shift)

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return self.vae.device

    def to(self, device: torch.device | str) -> Self:
        """Move the models, in place."""
        self.vae.to(device)
        return self

    def moments(self, pixels: Tensor | None, cached: Tensor | None = None) -> Tensor | None:
        """Return mean and log-variance (B, 2, C, h, w), unscaled: the cached ones, or those of pixels."""
        if cached is not None:
            return cached.to(self.device, torch.float32)
        return None if pixels is None else encoding.moments(self.vae, pixels.to(self.device))

    @torch.no_grad()
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Encode pixels (B, 3, H, W) in [-1, 1] to scaled latents (B, C, h, w)."""
        return vae.encode(self.vae, pixels.to(self.device, memory_format=torch.channels_last))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode scaled latents to pictures, uint8 (B, H, W, 3) on the CPU."""
        pixels = vae.decode(self.vae, latents.to(self.device, memory_format=torch.channels_last))
        return pixels.clamp(-1, 1).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).cpu()

    def identity(self, what: Literal["latents", "text"]) -> str:
        """Return a hash of all that decides latents or text embeddings; computed once."""
        if what not in self._identities:
            self._identities[what] = self._identify(what)
        return self._identities[what]

    def _identify(self, what: str) -> str:
        assert what == "latents", what
        return encoding.identity_of(self.vae)

    @torch.no_grad()
    def _encoded(
        self,
        batch: Batch,
        conditioning: Conditioning,
        unconditional: Conditioning | None,
        posterior_seed: int | None,
    ) -> EncodedBatch:
        """Put latents beside what prompts have become."""
        encoding.check_encoders(batch, self.identity)
        targets = self.moments(batch.pixels, batch.latents)
        references = self.moments(batch.references, batch.reference_latents)
        if targets is None:
            msg = f"a {batch.kind} batch has no target pixels: a stage that generates images trains on t2i or edit"
            raise ValueError(msg)
        return EncodedBatch(
            kind=batch.kind,
            keys=batch.keys,
            visits=batch.visits,
            latents=encoding.scaled(self.vae, encoding.draw(targets, batch, posterior_seed)),
            references=None if references is None else encoding.scaled(self.vae, references[:, 0]),
            conditioning=conditioning,
            unconditional=unconditional,
            weight=batch.weight.to(self.device),
        )


def frozen_vae(folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> AutoencoderKL:
    """Load the VAE of a checkpoint folder as training has it: frozen, and in the memory format of convolutions."""
    vae: AutoencoderKL = checkpoint.load_component(folder, "vae", dtype=dtype, device=device)
    vae.requires_grad_(False).to(memory_format=torch.channels_last)
    return vae
