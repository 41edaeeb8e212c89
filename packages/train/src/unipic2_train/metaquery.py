"""The MetaQuery system that stages train: a VLM, queries and a connector in the place of text encoders.

The VLM reads a prompt, for an edit perhaps with its picture, and then the queries; the connector turns the hidden
states at the queries into what the DiT eats (UniPic 2.0 report, section 3). The VLM is frozen: loaded once, outside the
module's state, never averaged, sharded or stored.

Legend: B rows, Q queries.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from unipic2_connector import MetaQueryConditioner, load_conditioner
from unipic2_dit import checkpoint
from unipic2_dit.conditioning import Conditioning
from unipic2_dit.vae import spatial_factor
from unipic2_train import export, home
from unipic2_train.conditioner import ConnectorConfig, build_conditioner
from unipic2_train.objectives.flow_matching import (
    FlowMatchingConfig,
    FlowMatchingLoss,
    dropped_prompts,
    flow_matching_loss,
    loss_at_levels,
)
from unipic2_train.pictures import EncodedBatch, FrozenPictures
from unipic2_train.sampler import SamplingConfig, generate
from unipic2_train.system import build_transformer
from unipic2_train.weights import full_values
from unipic2_unified.denoising import Conditions
from unipic2_unified.variants import Reference, read_reference, sees
from unipic2_vlm import QueryEncoder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from torch.distributed.device_mesh import DeviceMesh

    from unipic2_connector import StableDiffusion3Conditioner
    from unipic2_data.batch import Batch
    from unipic2_vlm import QwenVLBackbone

__all__ = ["MetaQuery", "MetaQueryConfig", "MetaQueryParts", "Trained", "frozen_metaquery"]

Trained = Literal["connector", "transformer", "both"]
"""What learns: queries and connector, the DiT, or both."""


@dataclass
class MetaQueryConfig:
    """What a MetaQuery run starts from and how it learns and samples."""

    checkpoint: str
    """Folder or hub id in the official layout, or ``home:PRESET/THING``: transformer, VAE and scheduler."""
    vlm: str
    """Folder or hub id of a Qwen2.5-VL, or ``home:PRESET/vlm``."""
    conditioner: str | None = None
    """Checkpoint whose ``conditioner/`` the run starts from; ``null``: new ones, of the sizes in ``connector``."""
    connector: ConnectorConfig | None = None
    """Sizes of new queries and connector; ``null`` with ``conditioner``."""
    objective: FlowMatchingConfig = field(default_factory=FlowMatchingConfig)
    """The rectified-flow objective; a dropped prompt is the empty prompt, read by the VLM as any other."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How grids and scores are sampled."""
    sample_posterior: bool = False
    """Draw a target's latents from the autoencoder's posterior at each visit, keyed; ``false``: take its mode."""
    gradient_checkpointing: bool = False
    """Recompute activations of VLM, connector and DiT in the backward pass: less memory, more time."""
    seed: int = 0
    """Seed of new weights, noise, noise levels and dropout."""


class MetaQueryParts(FrozenPictures):
    """VAE, scheduler and VLM, all frozen, and the conditioner through which the VLM's states become conditioning.

    Args:
        source: Checkpoint folder or hub id in the official layout.
        vlm: Folder or hub id of the VLM; on a GPU it is held in bfloat16, as released.
        reference: Who sees the picture that is edited.
        device: Where VAE and VLM go.
    """

    metaquery: MetaQueryConditioner

    def __init__(self, source: str | Path, vlm: str | Path, reference: Reference, device: torch.device) -> None:
        super().__init__(source, device)
        self.reference = reference
        multiple = spatial_factor(self.vae) * int(checkpoint.read_config(self.folder, "transformer")["patch_size"])
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.encoder = QueryEncoder.from_pretrained(vlm, multiple, dtype=dtype, device=device)

    def to(self, device: torch.device | str) -> Self:
        """Move VAE and VLM, in place."""
        self.encoder.backbone.to(device)
        return super().to(device)

    def read_by(self, conditioner: StableDiffusion3Conditioner) -> None:
        """Take the queries and the connector; gradients reach them if they are trained.

        Raises:
            ValueError: If they are for a VLM of another hidden size.
        """
        self.metaquery = MetaQueryConditioner(self.encoder, conditioner)

    def encode(
        self, batch: Batch, posterior_seed: int | None = None, prompts: Sequence[str] | None = None
    ) -> EncodedBatch:
        """Encode a batch; see ``FrozenPictures``.

        Args:
            batch: Pixels or cached latents, and prompts.
            posterior_seed: As in ``FrozenPictures``.
            prompts: Read instead of the batch's own.

        Raises:
            ValueError: Also if texts were encoded by text encoders, or the VLM is to see pictures that are not there.
        """
        if batch.prompt_embeds is not None:
            msg = "the cache holds embeddings of text encoders, but here a VLM reads prompts: set data.cache.text null"
            raise ValueError(msg)
        conditioning = self.read(batch.prompts if prompts is None else prompts, batch)
        encoded = self._encoded(batch, conditioning, None, posterior_seed)
        return encoded if sees("dit", self.reference) else replace(encoded, references=None)

    @torch.no_grad()
    def conditions(self, batch: Batch, *, guided: bool = True) -> Conditions:
        """Return what pictures are sampled from; the negative rows see the pictures that the positive ones see."""
        negative = self.read([""] * (len(batch) if self._sees(batch) else 1), batch) if guided else None
        pixels = batch.references if sees("dit", self.reference) else None
        references = None if pixels is None else self.encode_pixels(pixels)
        return Conditions(self.read(batch.prompts, batch), negative, references)

    def read(self, prompts: Sequence[str], batch: Batch) -> Conditioning:
        """Let the VLM read prompts, for edits with their pictures unless those are the DiT's alone.

        Args:
            prompts: One a row, or any number where the VLM sees no pictures.
            batch: Its kind, and its references (B, 3, H, W).

        Raises:
            ValueError: The pictures that the VLM is to see are not there.
        """
        edit = batch.kind == "edit"
        if self._sees(batch) and batch.references is None:
            msg = "the VLM reads the pictures of edits, and a cache of latents has none: train without data.cache"
            raise ValueError(msg)
        pictures = batch.references if self._sees(batch) else None
        return Conditioning(*self.metaquery(prompts, pictures, edit=edit, device=self.device))

    def _sees(self, batch: Batch) -> bool:
        return batch.kind == "edit" and sees("vlm", self.reference)


def frozen_metaquery(source: str | Path, vlm: str | Path, device: torch.device) -> MetaQueryParts:
    """Load a MetaQuery checkpoint whose conditioner is not trained: what reinforcement conditions its policy with.

    Raises:
        CheckpointError: The checkpoint has no conditioner, or its weights do not fit, or it says nonsense about who
            sees the picture that is edited.
        ValueError: The conditioner is for another VLM.
    """
    folder = checkpoint.resolve_folder(source)
    parts = MetaQueryParts(folder, vlm, read_reference(folder, "metaquery"), device)
    parts.read_by(load_conditioner(folder, device=device).requires_grad_(False))
    return parts


class MetaQuery(nn.Module):
    """Conditioner and transformer, beside a frozen VLM and VAE (which are no submodules).

    Args:
        config: What to build.
        trained: What learns; the rest is frozen.
        reference: Who sees the picture that is edited.
        device: Where.
        mesh: Shard conditioner and transformer over this mesh (FSDP2), frozen or not.
    """

    def __init__(
        self,
        config: MetaQueryConfig,
        trained: Trained,
        reference: Reference,
        device: torch.device,
        mesh: DeviceMesh | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        folder = home.path(config.checkpoint)
        self.frozen = MetaQueryParts(folder, home.path(config.vlm), reference, device)
        self.transformer = build_transformer(folder, "checkpoint", mesh=mesh, device=device, seed=config.seed)
        self.transformer.requires_grad_(trained != "connector")
        self.conditioner = build_conditioner(
            config.conditioner,
            config.connector,
            config.seed,
            self.frozen.encoder.hidden_size,
            self.transformer,
            mesh,
            device,
        )
        self.conditioner.requires_grad_(trained != "transformer")
        self.frozen.read_by(self.conditioner)
        if config.gradient_checkpointing:
            self.transformer.enable_gradient_checkpointing()
            self.conditioner.enable_gradient_checkpointing()
            self.frozen.encoder.backbone.enable_gradient_checkpointing()

    @property
    def backbone(self) -> QwenVLBackbone:
        """The VLM, which has to be the same after training."""
        return self.frozen.encoder.backbone

    def untrained(self) -> dict[str, nn.Module]:
        """Return what else has to be the same."""
        parts = {"vae": self.frozen.vae, "transformer": self.transformer, "conditioner": self.conditioner}
        return {name: part for name, part in parts.items() if not any(p.requires_grad for p in part.parameters())}

    def training_loss(self, batch: Batch) -> FlowMatchingLoss:
        """Return the loss of a batch at its keyed noise levels; dropped prompts are read as the empty prompt."""
        config = self.config
        dropped = dropped_prompts(batch.keys, batch.visits, config.objective, config.seed).tolist()
        prompts = ["" if gone else prompt for prompt, gone in zip(batch.prompts, dropped, strict=True)]
        encoded = self.frozen.encode(batch, config.seed if config.sample_posterior else None, prompts)
        return flow_matching_loss(
            self.transformer, encoded, config.objective, shift=self.frozen.shift, seed=config.seed
        )

    def validation_loss(self, batch: Batch) -> Tensor:
        """Return the mean loss of a batch at fixed noise and noise levels, a scalar."""
        with torch.no_grad():
            encoded = self.frozen.encode(batch)
        return loss_at_levels(self.transformer, encoded, self.config.objective, shift=self.frozen.shift).mean()

    def generate(self, batch: Batch) -> Tensor:
        """Return one picture per row, uint8 (B, H, W, 3)."""
        return generate(self.transformer, self.frozen, batch, self.config.sampling)

    def export(self, folder: Path, facts: dict[str, Any], *, write: bool) -> None:
        """Write the model as it is now. Every rank calls this; the one with ``write`` writes."""
        transformer, conditioner = full_values(self.transformer), full_values(self.conditioner)
        if write:
            facts = {**facts, "vlm": self.config.vlm}
            parts = ((self.transformer, transformer), (self.conditioner, conditioner))
            export.save_metaquery(folder, *parts, self.frozen, facts)
