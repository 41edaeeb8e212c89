"""Prompts to conditioning by a vision-language model and the connector.

The VLM is whatever reads prompts for queries: this package knows it by a protocol only.

Legend: B prompts, Q queries, V hidden size of the VLM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from unipic2_connector.connector import Conditioning, StableDiffusion3Conditioner

__all__ = ["MetaQueryConditioner", "VisionLanguageModel"]


class VisionLanguageModel(Protocol):
    """A VLM that reads a prompt and then queries."""

    @property
    def hidden_size(self) -> int:
        """Width V of queries and hidden states."""

    def __call__(
        self, prompts: Sequence[str], queries: Tensor, *, images: Any, edit: bool, positions: Any, layers: Sequence[int]
    ) -> Tensor:
        """Return the hidden states at the queries, with gradients to the queries.

        Args:
            prompts: One prompt, or instruction of an edit, a row.
            queries: Learnable embeddings, shape (Q, V).
            images: One picture a row, or ``None``.
            edit: The prompts are instructions.
            positions: ``1d`` or ``mrope``.
            layers: Which hidden states to put side by side.

        Returns:
            Hidden states, shape (B, Q, V * len(layers)).
        """


@dataclass
class MetaQueryConditioner:
    """A VLM and a connector in the place of SD3's text encoders.

    It holds the VLM without owning it: several may share one, and no checkpoint contains it. Gradients reach the
    conditioner's weights and queries, unless they are frozen or gradients are off.

    Args:
        vlm: The VLM.
        conditioner: Queries and connector; its config says how the VLM counts positions and which layers are read.

    Raises:
        ValueError: If the conditioner is for a VLM of another hidden size.
    """

    vlm: VisionLanguageModel
    conditioner: StableDiffusion3Conditioner

    def __post_init__(self) -> None:
        expected = self.conditioner.config.llm_hidden_size
        if self.vlm.hidden_size != expected:
            msg = (
                f"The conditioner is for a VLM of hidden size {expected}, but this one's is {self.vlm.hidden_size}: it "
                f"was trained with another VLM (3584 is Qwen2.5-VL-7B, 2048 the 3B)."
            )
            raise ValueError(msg)

    @property
    def num_tokens(self) -> int:
        """Length of the prompt embeddings: one token a query."""
        return int(self.conditioner.config.num_queries)

    def __call__(
        self,
        prompts: Sequence[str],
        images: Any = None,
        *,
        edit: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Conditioning:
        """Encode prompts. The empty prompt is a valid one: guidance leads away from it.

        Args:
            prompts: One prompt, or instruction of an edit, a row.
            images: One picture a row, in a form that the VLM reads, for edits whose picture the VLM sees.
            edit: The prompts are instructions, also without ``images``: the picture is then the DiT's alone.
            device: Where the result is; by default where the conditioner is.
            dtype: Dtype of the result; by default that of the conditioner.

        Returns:
            The conditioning, B rows of Q tokens.
        """
        config, queries = self.conditioner.config, self.conditioner.queries()
        states = self.vlm(
            prompts,
            queries,
            images=images,
            edit=edit,
            positions=config.vlm_positions,
            layers=tuple(config.vlm_layers),
        )
        conditioning = self.conditioner(states.to(queries.device))
        return Conditioning(*(part.to(device=device, dtype=dtype) for part in conditioning))
