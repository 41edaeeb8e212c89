"""The blocks of the Kontext DiT: joint attention of image and text, feed-forward, modulation.

Module names are those of the released state dict; the code is written anew so that it reads well and launches few
kernels: a block computes its modulation once a row, not once a token, and the last block only what is used.

Legend: B batch, N image tokens (reference + target), Q those of them that need an output, L text tokens, D model width,
    H heads, d = D / H.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unipic2_dit.norm import RmsNorm, layer_norm

__all__ = ["FeedForward", "JointAttention", "JointBlock", "Modulation", "modulate"]


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
            modulate(normed_image, shift, scale), modulate(normed_text, text_shift, text_scale), num_queries
        )

        image = torch.addcmul(_last(image, num_queries), gate, from_image)
        if self.attn2 is not None:
            dual_shift, dual_scale, dual_gate = dual
            from_image, _ = self.attn2(modulate(normed_image, dual_shift, dual_scale), None, num_queries)
            image = torch.addcmul(image, dual_gate, from_image)
        image = torch.addcmul(image, ff_gate, self.ff(modulate(layer_norm(image), ff_shift, ff_scale)))
        if self.ff_context is None:
            return image, text

        text = torch.addcmul(text, text_gate, from_text)
        update = self.ff_context(modulate(layer_norm(text), text_ff_shift, text_ff_scale))
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


def modulate(normed: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return ``normed * (1 + scale) + shift``."""
    return torch.addcmul(shift, normed, 1 + scale)


def _last(tokens: Tensor, count: int) -> Tensor:
    """Return the last ``count`` tokens; all of them without a slice, whose gradient would be a copy."""
    return tokens if tokens.shape[1] == count else tokens[:, -count:]
