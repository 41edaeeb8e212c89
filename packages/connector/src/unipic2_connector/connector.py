"""The connector: learnable queries, a bidirectional encoder over their hidden states, and two heads.

A vision-language model reads a prompt and then the queries; the connector turns the hidden states at the queries into
the prompt embeddings and the pooled embedding of SD3 (UniPic 2.0, arXiv 2509.04548, section 3). Config, state-dict keys
and results are those of the released ``StableDiffusion3Conditioner``, whose encoder is SigLIP's without a final norm.

Legend: B rows, Q queries, V hidden size of the VLM, D width of the encoder, H heads, d = D / H.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

__all__ = ["Conditioning", "ConnectorConfig", "ConnectorEncoder", "StableDiffusion3Conditioner"]

LAYER_NORM_EPS = 1e-6
POSITIONS = ("1d", "mrope")
LAST_LAYER = (-1,)


class Conditioning(NamedTuple):
    """What the diffusion transformer knows of a prompt, one a row."""

    prompt_embeds: Tensor
    """One vector a query, shape (B, Q, joint_attention_dim)."""
    pooled_projections: Tensor
    """One vector a prompt, shape (B, pooled_projection_dim)."""


class StableDiffusion3Conditioner(ModelMixin, ConfigMixin):
    """Queries, and hidden states at queries to SD3's conditioning.

    Args:
        connector_config: Sizes of the encoder; see ``ConnectorConfig``.
        num_queries: Queries Q.
        llm_hidden_size: Hidden size V of the VLM.
        pooled_projection_dim: Width of the pooled embedding, that of the transformer's config.
        joint_attention_dim: Width of the prompt embeddings, that of the transformer's config.
        vlm_positions: How the VLM numbers its tokens: ``1d`` (released) counts them, ``mrope`` gives pictures rows and
            columns.
        vlm_layers: Hidden states of the VLM that stand side by side; 0 is its embeddings, -1 its last layer (released).
            Several are DeepGen 1.0's bridge (arXiv 2602.12205).

    Raises:
        ValueError: If a size of the encoder, the positions or the layers are impossible.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["EncoderLayer"]
    _repeated_blocks: ClassVar[list[str]] = ["EncoderLayer"]

    @register_to_config
    def __init__(
        self,
        connector_config: Mapping[str, Any],
        num_queries: int = 256,
        llm_hidden_size: int = 3584,
        pooled_projection_dim: int = 2048,
        joint_attention_dim: int = 4096,
        vlm_positions: str = "1d",
        vlm_layers: Sequence[int] = LAST_LAYER,
    ) -> None:
        super().__init__()
        if vlm_positions not in POSITIONS:
            msg = f"vlm_positions is {vlm_positions!r}; known are {', '.join(map(repr, POSITIONS))}."
            raise ValueError(msg)
        if not vlm_layers:
            msg = "vlm_layers is empty: name at least one hidden state of the VLM, such as -1 for its last layer."
            raise ValueError(msg)
        encoder = ConnectorConfig.of(connector_config)
        self.connector = ConnectorEncoder(encoder)
        self.projector_1 = nn.Linear(llm_hidden_size * len(vlm_layers), encoder.hidden_size)
        self.projector_2 = nn.Linear(encoder.hidden_size, pooled_projection_dim)
        self.projector_3 = nn.Linear(encoder.hidden_size, joint_attention_dim)
        # Zeros would meet the VLM's first RMSNorm with a gradient about a thousand times too large (1 / sqrt(eps)).
        self.meta_queries = nn.Parameter(torch.empty(num_queries, llm_hidden_size))
        nn.init.normal_(self.meta_queries, std=llm_hidden_size**-0.5)

    def queries(self) -> Tensor:
        """Return the queries for the VLM, shape (Q, V), also of a conditioner whose weights are sharded."""
        # A copy: what a sharded module gathers may be freed when the method returns.
        return self.meta_queries.clone()

    def forward(self, hidden_states: Tensor) -> Conditioning:
        """Turn the VLM's hidden states at the queries into conditioning.

        Args:
            hidden_states: Hidden states, those of several layers side by side, shape (B, Q, V * layers). They are cast
                to the dtype of the weights.

        Returns:
            Prompt embeddings, and the pooled embedding of the mean over the queries.

        Raises:
            ValueError: If the width is not the config's.
        """
        if hidden_states.shape[-1] != self.projector_1.in_features:
            msg = (
                f"The hidden states have width {hidden_states.shape[-1]}, expected {self.projector_1.in_features}: "
                f"llm_hidden_size {self.config.llm_hidden_size} times {len(self.config.vlm_layers)} of its layers."
            )
            raise ValueError(msg)
        tokens = self.connector(self.projector_1(hidden_states.to(self.projector_1.weight.dtype)))  # (B, Q, D)
        return Conditioning(self.projector_3(tokens), self.projector_2(tokens.mean(dim=1)))

    def to_json_string(self) -> str:
        """Return the config as it is saved, like the released one: without options that are not in use.

        Nor does it tell from which folder of this machine the weights came.
        """
        values = json.loads(super().to_json_string())
        values.pop("_name_or_path", None)
        for name, default in (("vlm_positions", "1d"), ("vlm_layers", list(LAST_LAYER))):
            if values.get(name) == default:
                del values[name]
        return json.dumps(values, indent=2, sort_keys=True) + "\n"


@dataclass(frozen=True)
class ConnectorConfig:
    """Sizes of the encoder. Released: 1536, 8960, 24, 24."""

    hidden_size: int
    """Width D."""
    intermediate_size: int
    """Width inside the feed-forward."""
    num_hidden_layers: int
    """Layers."""
    num_attention_heads: int
    """Heads H, which divide D."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> ConnectorConfig:
        """Read the ``connector_config`` of a checkpoint.

        What the released encoder could vary and never did is accepted at its one value; ``_attn_implementation`` says
        which kernel to use, and here PyTorch chooses.

        Raises:
            ValueError: If a size is missing or impossible, or a key or value is unknown.
        """
        fixed = {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": LAYER_NORM_EPS, "attention_dropout": 0.0}
        sizes = list(cls.__dataclass_fields__)
        missing = [name for name in sizes if name not in values]
        unknown = [name for name in values if name not in (*sizes, *fixed, "_attn_implementation")]
        wrong = [
            f"{name} {values[name]!r} (only {only!r})" for name, only in fixed.items() if values.get(name, only) != only
        ]
        if missing or unknown or wrong:
            parts = {"missing": missing, "unknown": unknown, "not supported": wrong}
            found = "; ".join(f"{title}: {', '.join(names)}" for title, names in parts.items() if names)
            msg = f"connector_config does not fit this encoder: {found}."
            raise ValueError(msg)
        config = cls(**{name: values[name] for name in sizes})
        if config.hidden_size % config.num_attention_heads:
            msg = (
                f"connector_config has hidden_size {config.hidden_size}, which {config.num_attention_heads} heads "
                f"(num_attention_heads) can't share evenly."
            )
            raise ValueError(msg)
        return config


class ConnectorEncoder(nn.Module):
    """Pre-norm encoder layers in which every query sees every other; without a final norm."""

    _gradient_checkpointing_func: Callable[..., Tensor]  # set by enable_gradient_checkpointing

    def __init__(self, config: ConnectorConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_hidden_layers))
        self.gradient_checkpointing = False

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, Q, D) to (B, Q, D)."""
        for layer in self.layers:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                tokens = self._gradient_checkpointing_func(layer, tokens)
            else:
                tokens = layer(tokens)
        return tokens


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward, each after a layer norm and beside a residual."""

    def __init__(self, config: ConnectorConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)
        self.self_attn = Attention(config.hidden_size, config.num_attention_heads)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)
        self.mlp = FeedForward(config.hidden_size, config.intermediate_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, Q, D) to (B, Q, D)."""
        tokens = tokens + self.self_attn(self.layer_norm1(tokens))
        return tokens + self.mlp(self.layer_norm2(tokens))


class Attention(nn.Module):
    """Bidirectional self-attention."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, Q, D) to (B, Q, D)."""
        query, key, value = (
            project(tokens).unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (B, H, Q, d)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two linear layers with a tanh-approximated GELU between."""

    def __init__(self, width: int, inner_width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner_width)
        self.fc2 = nn.Linear(inner_width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, Q, D) to (B, Q, D)."""
        return self.fc2(F.gelu(self.fc1(tokens), approximate="tanh"))
