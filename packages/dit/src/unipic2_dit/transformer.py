"""The Kontext DiT: SD3.5's multi-modal diffusion transformer that also reads a reference image.

The reference latents go through the same patch embedding and the same positional table as the noisy target. The image
stream is ``[reference tokens, target tokens]``; it attends jointly with the text stream, the timestep modulates all
tokens, and the target tokens are the prediction (UniPic 2.0, arXiv 2509.04548, section 3). Without a reference this is
exactly SD3.5's text-to-image network. Config, state-dict keys and results are those of the released
``SD3Transformer2DKontextModel``; the blocks are written anew so that they read well and launch few kernels.

Legend: B batch, C latent channels, h/w latent height/width (pixels / VAE factor), N image tokens (reference + target),
    L text tokens, T = N + L joint tokens, D model width, H heads, d = D / H.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import FromOriginalModelMixin, PeftAdapterMixin
from diffusers.models.embeddings import CombinedTimestepTextProjEmbeddings, PatchEmbed
from diffusers.models.modeling_outputs import Transformer2DModelOutput

# ``ModelMixin`` has to be a name of this module: stock ``DiffusionPipeline.save_pretrained`` looks it up here.
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import apply_lora_scale
from torch import Tensor, nn

from unipic2_dit.norm import RmsNorm, layer_norm

__all__ = ["SD3Transformer2DKontextModel"]


class SD3Transformer2DKontextModel(ModelMixin, ConfigMixin, PeftAdapterMixin, FromOriginalModelMixin):
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
        velocity = self._unpatchify(self.proj_out(_modulate(layer_norm(tokens), shift, scale)), height, width)
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


class JointBlock(nn.Module):
    """One block of the transformer: joint attention of image and text, then a feed-forward for each stream.

    Args:
        width: Model width D.
        num_heads: Heads H.
        qk_norm: Normalise queries and keys by their root mean square.
        dual_attention: Add a second attention among the image tokens alone (SD3.5).
        is_last: The text stream is only read, and only the target tokens are computed, since nothing else is used.
    """

    def __init__(self, width: int, num_heads: int, *, qk_norm: bool, dual_attention: bool, is_last: bool) -> None:
        super().__init__()
        self.is_last = is_last
        self.norm1 = Modulation(width, 9 if dual_attention else 6)
        self.norm1_context = Modulation(width, 2 if is_last else 6)
        self.attn = JointAttention(width, num_heads, qk_norm=qk_norm, has_text=True, updates_text=not is_last)
        self.attn2 = (
            JointAttention(width, num_heads, qk_norm=qk_norm, has_text=False, updates_text=False)
            if dual_attention
            else None
        )
        self.ff = FeedForward(width)
        self.ff_context = None if is_last else FeedForward(width)

    def forward(self, image: Tensor, text: Tensor, signal: Tensor, num_target: int) -> tuple[Tensor, Tensor]:
        """Update both streams.

        Args:
            image: Reference and target tokens, shape (B, N, D).
            text: Text tokens, shape (B, L, D).
            signal: SiLU of the timestep and pooled text embedding, shape (B, D).
            num_target: How many of the last image tokens are the target.

        Returns:
            The new image tokens (B, N, D) and text tokens (B, L, D); from the last block, the target tokens
            (B, num_target, D) and the text tokens as they came.
        """
        shift, scale, gate, ff_shift, ff_scale, ff_gate, *dual = self.norm1(signal)
        normed_image = layer_norm(image)
        normed_text = layer_norm(text)
        if self.is_last:
            text_scale, text_shift = self.norm1_context(signal)
        else:
            text_shift, text_scale, text_gate, text_ff_shift, text_ff_scale, text_ff_gate = self.norm1_context(signal)
        num_queries = num_target if self.is_last else image.shape[1]
        from_image, from_text = self.attn(
            _modulate(normed_image, shift, scale), _modulate(normed_text, text_shift, text_scale), num_queries
        )

        image = torch.addcmul(_last(image, num_queries), gate, from_image)
        if self.attn2 is not None:
            dual_shift, dual_scale, dual_gate = dual
            from_image, _ = self.attn2(_modulate(normed_image, dual_shift, dual_scale), None, num_queries)
            image = torch.addcmul(image, dual_gate, from_image)
        image = torch.addcmul(image, ff_gate, self.ff(_modulate(layer_norm(image), ff_shift, ff_scale)))
        if self.ff_context is None:
            return image, text

        text = torch.addcmul(text, text_gate, from_text)
        update = self.ff_context(_modulate(layer_norm(text), text_ff_shift, text_ff_scale))
        return image, torch.addcmul(text, text_ff_gate, update)


class JointAttention(nn.Module):
    """Attention of the image tokens over image and text tokens, and of the text tokens over the same.

    Args:
        width: Model width D.
        num_heads: Heads H.
        qk_norm: Normalise queries and keys by their root mean square.
        has_text: Text tokens take part.
        updates_text: Text tokens get an output.
    """

    def __init__(self, width: int, num_heads: int, *, qk_norm: bool, has_text: bool, updates_text: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        head_dim = width // num_heads
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.norm_q = RmsNorm(head_dim) if qk_norm else nn.Identity()
        self.norm_k = RmsNorm(head_dim) if qk_norm else nn.Identity()
        self.to_out = nn.ModuleList([nn.Linear(width, width)])
        if has_text:
            self.add_q_proj = nn.Linear(width, width)
            self.add_k_proj = nn.Linear(width, width)
            self.add_v_proj = nn.Linear(width, width)
            self.norm_added_q = RmsNorm(head_dim) if qk_norm else nn.Identity()
            self.norm_added_k = RmsNorm(head_dim) if qk_norm else nn.Identity()
        self.to_add_out = nn.Linear(width, width) if updates_text else None

    def forward(self, image: Tensor, text: Tensor | None, num_queries: int) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            image: Image tokens, shape (B, N, D).
            text: Text tokens, shape (B, L, D), or ``None``.
            num_queries: How many of the last image tokens need an output, Q.

        Returns:
            The image tokens' output (B, Q, D), and the text tokens' (B, L, D) or ``None``.
        """
        query = self.norm_q(self._heads(self.to_q(_last(image, num_queries))))
        key = self.norm_k(self._heads(self.to_k(image)))
        value = self._heads(self.to_v(image))
        if text is not None:
            query = torch.cat((query, self.norm_added_q(self._heads(self.add_q_proj(text)))), dim=1)
            key = torch.cat((key, self.norm_added_k(self._heads(self.add_k_proj(text)))), dim=1)
            value = torch.cat((value, self._heads(self.add_v_proj(text))), dim=1)
        mixed = F.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
        mixed = mixed.transpose(1, 2).flatten(2)
        if text is None:
            return self.to_out[0](mixed), None
        # One split, whose gradient is one concatenation: two slices would each make a tensor of zeros.
        for_image, for_text = mixed.split((num_queries, text.shape[1]), dim=1)
        return self.to_out[0](for_image), None if self.to_add_out is None else self.to_add_out(for_text)

    def _heads(self, tokens: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, H, d)."""
        return tokens.unflatten(2, (self.num_heads, -1))


class FeedForward(nn.Module):
    """Two linear layers with a tanh-approximated GELU between, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # The released keys are net.0.proj and net.2; net.1 is a dropout of zero there.
        self.net = nn.ModuleList([GeluProjection(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, N, D) to (B, N, D)."""
        return self.net[2](self.net[0](tokens))


class GeluProjection(nn.Module):
    """A linear layer and a tanh-approximated GELU."""

    def __init__(self, width: int, inner_width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, inner_width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (..., width) to (..., inner_width)."""
        return F.gelu(self.proj(tokens), approximate="tanh")


class Modulation(nn.Module):
    """Shifts, scales and gates of the tokens, computed once for a row, not for each of its tokens."""

    def __init__(self, width: int, num_parts: int) -> None:
        super().__init__()
        self.num_parts = num_parts
        self.linear = nn.Linear(width, num_parts * width)

    def forward(self, signal: Tensor) -> tuple[Tensor, ...]:
        """Map (B, D) to ``num_parts`` tensors of shape (B, 1, D)."""
        return self.linear(signal).unsqueeze(1).chunk(self.num_parts, dim=2)


def _modulate(normed: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return ``normed * (1 + scale) + shift``."""
    return torch.addcmul(shift, normed, 1 + scale)


def _last(tokens: Tensor, count: int) -> Tensor:
    """Return the last ``count`` tokens; all of them without a slice, whose gradient would be a copy."""
    return tokens if tokens.shape[1] == count else tokens[:, -count:]
