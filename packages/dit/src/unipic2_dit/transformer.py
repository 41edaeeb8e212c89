"""The Kontext DiT: SD3.5's multi-modal diffusion transformer that also reads a reference image.

The reference latents go through the same patch embedding and the same positional table as the noisy target. The image
stream is ``[reference tokens, target tokens]``; it attends jointly with the text stream, the timestep modulates all
tokens, and the target tokens are the prediction (UniPic 2.0, arXiv 2509.04548, section 3). Without a reference this is
exactly SD3.5's text-to-image network. Config, state-dict keys and results are those of the released
``SD3Transformer2DKontextModel``.

Legend: B batch, C latent channels, h/w latent height/width (pixels / VAE factor), N image tokens (reference + target),
    L text tokens, D model width, H heads, d = D / H, p patch size.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.embeddings import CombinedTimestepTextProjEmbeddings, PatchEmbed
from diffusers.models.modeling_outputs import Transformer2DModelOutput

# ``ModelMixin`` has to be a name of this module: stock ``DiffusionPipeline.save_pretrained`` looks it up here.
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import apply_lora_scale
from torch import Tensor, nn

from unipic2_dit.blocks import JointBlock, Modulation, modulate
from unipic2_dit.norm import layer_norm

__all__ = ["SD3Transformer2DKontextModel"]


class SD3Transformer2DKontextModel(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """Rectified-flow transformer that predicts ``velocity = noise - data`` from noisy latents, text and a reference.

    Args:
        sample_size: Latent height and width the positional table is scaled for, in latent cells.
        patch_size: Edge of a patch, in latent cells.
        in_channels: Latent channels C of target and reference.
        num_layers: Number of joint blocks. The last one updates the image stream only.
        attention_head_dim: Channels d of a head.
        num_attention_heads: Heads H; the width is ``H * d``.
        joint_attention_dim: Width of the prompt embeddings.
        caption_projection_dim: Width of the text stream; has to equal ``H * d``.
        pooled_projection_dim: Width of the pooled prompt embedding.
        out_channels: Channels of the prediction.
        pos_embed_max_size: Edge of the positional table, in patches. Larger inputs are an error.
        dual_attention_layers: Blocks with a second, image-only attention (SD3.5-Medium: 0 to 12).
        qk_norm: ``"rms_norm"`` (SD3.5) or ``None`` (SD3).

    Raises:
        ValueError: If the text stream's width is not the model's, or ``qk_norm`` is unknown.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["JointBlock"]
    _repeated_blocks: ClassVar[list[str]] = ["JointBlock"]
    _skip_layerwise_casting_patterns: ClassVar[list[str]] = ["pos_embed", "norm"]

    @register_to_config
    def __init__(
        self,
        sample_size: int = 128,
        patch_size: int = 2,
        in_channels: int = 16,
        num_layers: int = 18,
        attention_head_dim: int = 64,
        num_attention_heads: int = 18,
        joint_attention_dim: int = 4096,
        caption_projection_dim: int = 1152,
        pooled_projection_dim: int = 2048,
        out_channels: int = 16,
        pos_embed_max_size: int = 96,
        dual_attention_layers: tuple[int, ...] = (),
        qk_norm: str | None = None,
    ) -> None:
        super().__init__()
        width = num_attention_heads * attention_head_dim
        if caption_projection_dim != width:
            msg = (
                f"caption_projection_dim is {caption_projection_dim}, but the text stream has the model's width "
                f"num_attention_heads * attention_head_dim = {width}: set it to {width}."
            )
            raise ValueError(msg)
        if qk_norm not in (None, "rms_norm"):
            msg = f"qk_norm is {qk_norm!r}; known are 'rms_norm' (SD3.5) and None (SD3)."
            raise ValueError(msg)
        self.out_channels = out_channels
        self.pos_embed = PatchEmbed(
            height=sample_size,
            width=sample_size,
            patch_size=patch_size,
            in_channels=in_channels,
            embed_dim=width,
            pos_embed_max_size=pos_embed_max_size,
        )
        self.time_text_embed = CombinedTimestepTextProjEmbeddings(width, pooled_projection_dim)
        self.context_embedder = nn.Linear(joint_attention_dim, width)
        self.transformer_blocks = nn.ModuleList(
            JointBlock(
                width,
                num_attention_heads,
                qk_norm=qk_norm is not None,
                dual_attention=index in dual_attention_layers,
                is_last=index == num_layers - 1,
            )
            for index in range(num_layers)
        )
        self.norm_out = Modulation(width, 2)
        self.proj_out = nn.Linear(width, patch_size * patch_size * out_channels)
        self.gradient_checkpointing = False

    @apply_lora_scale("joint_attention_kwargs")
    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        timestep: Tensor,
        ref_hidden_states: Tensor | None = None,
        joint_attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Predict the velocity of the target.

        Args:
            hidden_states: Noisy target latents, shape (B, C, h, w).
            encoder_hidden_states: Prompt embeddings, shape (B, L, joint_attention_dim).
            pooled_projections: Pooled prompt embedding, shape (B, pooled_projection_dim).
            timestep: ``1000 * sigma``, in [0, 1000], shape (B,).
            ref_hidden_states: Clean reference latents, shape (B, C, h', w'), of any size, or ``None``
                (text-to-image).
            joint_attention_kwargs: ``{"scale": float}`` weighs LoRA layers; nothing else is known.
            return_dict: Return a ``Transformer2DModelOutput`` instead of a tuple of one tensor.

        Returns:
            The velocity ``noise - data``, shape (B, out_channels, h, w).

        Raises:
            ValueError: If a latent size is no multiple of the patch size or larger than the positional table, or
                ``joint_attention_kwargs`` holds an unknown key.
        """
        if joint_attention_kwargs:
            msg = f"Unknown joint_attention_kwargs {sorted(joint_attention_kwargs)}: only 'scale' (LoRA) is known."
            raise ValueError(msg)
        height, width = hidden_states.shape[-2:]
        # Scheduler maths is float32 whatever the weights are, so the inputs are cast here; the timestep keeps its bits.
        dtype = self.pos_embed.proj.weight.dtype
        tokens = self._embed(hidden_states.to(dtype))
        num_target = tokens.shape[1]
        if ref_hidden_states is not None:
            tokens = torch.cat((self._embed(ref_hidden_states.to(dtype)), tokens), dim=1)
        text = self.context_embedder(encoder_hidden_states.to(dtype))
        # Every modulation of every block starts with the same SiLU: once here instead of once a layer.
        signal = F.silu(self.time_text_embed(timestep.float(), pooled_projections.to(dtype)))

        for block in self.transformer_blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                tokens, text = self._gradient_checkpointing_func(block, tokens, text, signal, num_target)
            else:
                tokens, text = block(tokens, text, signal, num_target)

        scale, shift = self.norm_out(signal)
        velocity = self._unpatchify(self.proj_out(modulate(layer_norm(tokens), shift, scale)), height, width)
        return Transformer2DModelOutput(sample=velocity) if return_dict else (velocity,)

    def _embed(self, latents: Tensor) -> Tensor:
        """Cut latents (B, C, h, w) into patches and add the centre crop of the positional table: (B, N, D)."""
        patch = self.config.patch_size
        height, width = latents.shape[-2:]
        if height % patch or width % patch:
            msg = f"Latents of {height}x{width} cells can't be cut into {patch}x{patch} patches: use multiples."
            raise ValueError(msg)
        return self.pos_embed(latents).contiguous()

    def _unpatchify(self, patches: Tensor, height: int, width: int) -> Tensor:
        """Lay patches (B, N, p * p * C) out as latents (B, C, h, w)."""
        patch = self.config.patch_size
        rows, columns = height // patch, width // patch
        grid = patches.unflatten(1, (rows, columns)).unflatten(3, (patch, patch, self.out_channels))
        return grid.permute(0, 5, 1, 3, 2, 4).reshape(-1, self.out_channels, height, width)
