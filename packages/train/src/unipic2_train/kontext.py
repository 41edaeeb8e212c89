"""The Kontext system that stages train: transformer, frozen parts, objective, sampling and export in one module.

``pretrain`` and ``finetune`` differ in what they train and from where they start; what a batch means to the model is
the same and stands here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from unipic2_dit import checkpoint
from unipic2_train import export, home
from unipic2_train.metaquery import MetaQueryParts, frozen_metaquery
from unipic2_train.objectives.flow_matching import (
    FlowMatchingConfig,
    FlowMatchingLoss,
    flow_matching_loss,
    loss_at_levels,
)
from unipic2_train.pictures import FrozenPictures
from unipic2_train.sampler import SamplingConfig, generate
from unipic2_train.system import AdapterConfig, FrozenParts, Init, build_transformer
from unipic2_train.weights import full_values

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from unipic2_data.batch import Batch
    from unipic2_vlm import QwenVLBackbone

__all__ = ["Kontext", "KontextConfig"]


@dataclass
class KontextConfig:
    """What a Kontext run starts from and how it learns and samples."""

    checkpoint: str
    """Folder or hub id in the official layout, or ``home:PRESET/THING``: VAE, text encoders, scheduler, transformer."""
    init: Init = "checkpoint"
    """``checkpoint`` loads the transformer's weights; ``scratch`` draws them from ``seed``."""
    architecture: dict[str, Any] | None = None
    """Transformer config values instead of the checkpoint's; with ``init: scratch`` only."""
    adapter: AdapterConfig | None = None
    """Train this LoRA adapter; ``null`` trains all weights of the transformer."""
    objective: FlowMatchingConfig = field(default_factory=FlowMatchingConfig)
    """The rectified-flow objective."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How grids and scores are sampled."""
    sample_posterior: bool = False
    """Draw a target's latents from the autoencoder's posterior at each visit, keyed; ``false``: take its mode."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    vlm: str | None = None
    """The VLM of a MetaQuery checkpoint, frozen as its conditioner is; ``null``: the checkpoint has text encoders."""
    seed: int = 0
    """Seed of initial weights, noise, noise levels and dropout."""


class Kontext(nn.Module):
    """Transformer to train, beside its frozen parts (which are no submodules: never averaged, sharded or stored).

    Args:
        config: What to build.
        device: Where.
        mesh: Shard the transformer over this mesh (FSDP2).
    """

    def __init__(self, config: KontextConfig, device: torch.device, mesh: DeviceMesh | None = None) -> None:
        super().__init__()
        self.config = config
        folder = home.path(config.checkpoint)
        self.frozen = _frozen(folder, config.vlm, device)
        self.transformer = build_transformer(
            folder,
            config.init,
            architecture=config.architecture,
            adapter=config.adapter,
            mesh=mesh,
            device=device,
            seed=config.seed,
        )
        if config.gradient_checkpointing:
            self.transformer.enable_gradient_checkpointing()
        self._check_fits()

    def training_loss(self, batch: Batch) -> FlowMatchingLoss:
        """Return the loss of a batch at its keyed noise levels."""
        encoded = self.frozen.encode(batch, self.config.seed if self.config.sample_posterior else None)
        return flow_matching_loss(
            self.transformer, encoded, self.config.objective, shift=self.frozen.shift, seed=self.config.seed
        )

    def validation_loss(self, batch: Batch) -> Tensor:
        """Return the mean loss of a batch at fixed noise and noise levels, a scalar."""
        encoded = self.frozen.encode(batch)
        return loss_at_levels(self.transformer, encoded, self.config.objective, shift=self.frozen.shift).mean()

    def generate(self, batch: Batch) -> Tensor:
        """Return one picture per row, uint8 (B, H, W, 3)."""
        return generate(self.transformer, self.frozen, batch, self.config.sampling)

    @property
    def backbone(self) -> QwenVLBackbone | None:
        """The VLM, if there is one, which has to be the same after training."""
        return self.frozen.encoder.backbone if isinstance(self.frozen, MetaQueryParts) else None

    def untrained(self) -> dict[str, nn.Module]:
        """Return what else has to be the same; of the transformer, what an adapter adapts."""
        parts: dict[str, nn.Module] = {"vae": self.frozen.vae}
        if isinstance(self.frozen, MetaQueryParts):
            parts["conditioner"] = self.frozen.metaquery.conditioner
        elif isinstance(self.frozen, FrozenParts):
            names = ("text_encoder", "text_encoder_2", "text_encoder_3")
            parts |= dict(zip(names, self.frozen.text.encoders(), strict=False))  # without T5 there are two
        return parts if self.config.adapter is None else {**parts, "transformer": self.transformer}

    def export(self, folder: Path, facts: dict[str, Any], *, write: bool) -> None:
        """Write the model, or its adapter, as it is now. Every rank calls this; the one with ``write`` writes."""
        values = export.trained_values(self.transformer)
        if not write:
            return
        if self.config.adapter is None:
            self.save(folder, values, facts)
        else:
            export.save_adapter(folder, values, self.config.adapter.alpha, facts)

    def save(self, folder: Path, values: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Write a whole model folder, with the transformer's parameters as given and the frozen parts beside it."""
        if isinstance(self.frozen, MetaQueryParts):
            conditioner = self.frozen.metaquery.conditioner
            parts = ((self.transformer, values), (conditioner, full_values(conditioner)))
            export.save_metaquery(folder, *parts, self.frozen, {**facts, "vlm": self.config.vlm})
        else:
            assert isinstance(self.frozen, FrozenParts)
            export.save_model(folder, self.transformer, values, self.frozen, facts)

    def _check_fits(self) -> None:
        channels, wanted = self.frozen.vae.config.latent_channels, self.transformer.config.in_channels
        if channels != wanted:
            msg = (
                f"the VAE of {self.frozen.folder} has {channels} latent channels, but the transformer reads {wanted}: "
                "transformer and checkpoint are of different presets"
            )
            raise ValueError(msg)


def _frozen(source: Path, vlm: str | None, device: torch.device) -> FrozenPictures:
    """Load what is frozen of a checkpoint of either kind.

    Raises:
        ValueError: A MetaQuery checkpoint without its VLM.
    """
    if vlm is not None:
        return frozen_metaquery(source, home.path(vlm), device)
    folder = checkpoint.resolve_folder(source)
    if checkpoint.has_component(folder, "conditioner") and not checkpoint.has_component(folder, "text_encoder"):
        msg = f"{source} is a MetaQuery checkpoint, without text encoders: name its VLM by model.kontext.vlm"
        raise ValueError(msg)
    return FrozenParts(folder, device)
