"""Qwen2.5-VL as tensors in, tensors out: hidden states at learnable queries.

The queries follow a prompt, with or without pictures, and read it through the frozen VLM; the hidden states at their
places say what to draw (UniPic 2.0, arXiv 2509.04548, section 3). The model is the stock one of transformers.

Legend: B rows, S tokens of a prompt, padding included, Q queries, D hidden size, P patches of all pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from unipic2_vlm import checkpoint
from unipic2_vlm.positions import Positions, token_positions

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLForConditionalGeneration

__all__ = ["QwenVLBackbone"]

LAST_LAYER = (-1,)


class QwenVLBackbone(nn.Module):
    """A frozen Qwen2.5-VL.

    Args:
        model: The stock model. It is frozen and put into evaluation mode.
    """

    def __init__(self, model: Qwen2_5_VLForConditionalGeneration) -> None:
        super().__init__()
        self.model = model.requires_grad_(False).eval()

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        quantization: checkpoint.Quantization | None = None,
    ) -> QwenVLBackbone:
        """Load the VLM of a folder, strictly.

        Args:
            source: Folder of a Qwen2.5-VL (3B, 7B or a small one), or a hub id.
            revision: Revision of a hub id.
            dtype: Dtype of the weights, by default float32; of a quantised model, what it computes in, by default
                bfloat16.
            device: Where it goes, by default the CPU.
            quantization: ``"int8"`` or ``"nf4"``: its linear layers in 8 bits (torchao) or 4 (bitsandbytes).

        Raises:
            CheckpointError: If it is no Qwen2.5-VL, its weights are damaged or not exactly those of its config, or
                quantised weights are asked for and a library is missing.
        """
        return cls(
            checkpoint.load_model(source, revision=revision, dtype=dtype, device=device, quantization=quantization)
        )

    @property
    def device(self) -> torch.device:
        """Where the inputs have to be."""
        return self.model.get_input_embeddings().weight.device

    @property
    def hidden_size(self) -> int:
        """Width D of hidden states and queries."""
        return int(self.model.config.text_config.hidden_size)

    @property
    def image_token_id(self) -> int:
        """The token that stands for a part of a picture."""
        return int(self.model.config.image_token_id)

    @property
    def max_tokens(self) -> int:
        """Tokens that the VLM reads at most, queries and answer included."""
        return int(self.model.config.text_config.max_position_embeddings)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute the language model's layers in the backward pass, whose gradient goes to the queries."""
        language_model = self.model.model.language_model
        language_model.activation_checkpointing_enable()
        # It also makes the words' embeddings ask for gradients, which only the queries need.
        language_model.disable_input_require_grads()
        # Layers are checkpointed in training mode only. Qwen2.5-VL has no dropout, so nothing else changes.
        language_model.train()

    @contextmanager
    def evaluating(self) -> Iterator[Qwen2_5_VLForConditionalGeneration]:
        """Give the model in evaluation mode: checkpointed layers would lose the cache that answers need."""
        language_model = self.model.model.language_model
        training = language_model.training
        language_model.eval()
        try:
            yield self.model
        finally:
            language_model.train(training)

    def query_states(
        self,
        *,
        input_ids: Tensor,
        attention_mask: Tensor,
        queries: Tensor,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        positions: Positions = "1d",
        layers: Sequence[int] = LAST_LAYER,
    ) -> Tensor:
        """Return the hidden states at queries that follow a prompt; gradients reach the queries.

        A row is what it would be alone, however it is padded, on either side.

        Args:
            input_ids: Token ids, shape (B, S).
            attention_mask: 1 for tokens, 0 for padding, shape (B, S).
            queries: Learnable embeddings, shape (Q, D), or (B, Q, D) if rows have their own.
            pixel_values: Patches of the pictures, row after row, shape (P, channels * time * height * width).
            image_grid_thw: Patches of each picture along (time, height, width), shape (pictures, 3).
            positions: ``1d`` (released) or ``mrope``.
            layers: Which hidden states; 0 is the embeddings, -1 the last layer after the final norm (released).

        Returns:
            Hidden states, those of several layers side by side, shape (B, Q, D * len(layers)).

        Raises:
            ValueError: If pictures and image tokens do not fit, there are too many tokens, queries have another width,
                or a layer or mode is unknown.
        """
        rows, num_queries = input_ids.shape[0], queries.shape[-2]
        if queries.shape[-1] != self.hidden_size:
            msg = f"The queries have width {queries.shape[-1]}, but this VLM's hidden size is {self.hidden_size}."
            raise ValueError(msg)
        self.check_inputs(input_ids, pixel_values, image_grid_thw, room=num_queries)
        self._check_layers(layers)

        prompt = self._embed(input_ids, pixel_values, image_grid_thw)  # (B, S, D)
        embeds = torch.cat((prompt, queries.to(prompt).expand(rows, -1, -1)), dim=1)  # (B, S + Q, D)
        mask = torch.cat((attention_mask, attention_mask.new_ones(rows, num_queries)), dim=1)
        ids = torch.cat((input_ids, input_ids.new_zeros(rows, num_queries)), dim=1)
        output = self.model.model.language_model(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=token_positions(positions, self.model, ids, mask, image_grid_thw),
            use_cache=False,
            output_hidden_states=tuple(layers) != LAST_LAYER,
        )
        if tuple(layers) == LAST_LAYER:
            return output.last_hidden_state[:, -num_queries:]
        return torch.cat([output.hidden_states[layer][:, -num_queries:] for layer in layers], dim=-1)

    def check_inputs(
        self, input_ids: Tensor, pixel_values: Tensor | None, image_grid_thw: Tensor | None, room: int
    ) -> None:
        """Make sure that pictures and tokens fit each other and the VLM.

        Args:
            input_ids: Token ids, shape (B, S).
            pixel_values: Patches of the pictures, or ``None``.
            image_grid_thw: Patches of each picture along (time, height, width), or ``None``.
            room: Tokens that have to fit behind the prompt.

        Raises:
            ValueError: If they do not.
        """
        if (pixel_values is None) != (image_grid_thw is None):
            msg = "pixel_values and image_grid_thw belong together: pass both or neither."
            raise ValueError(msg)
        num_image_tokens = int((input_ids == self.image_token_id).sum())
        merged = self.model.config.vision_config.spatial_merge_size**2
        expected = 0 if image_grid_thw is None else int(image_grid_thw.prod(dim=-1).sum()) // merged
        if num_image_tokens != expected:
            num_pictures = 0 if image_grid_thw is None else len(image_grid_thw)
            msg = (
                f"The prompts hold {num_image_tokens} image tokens (id {self.image_token_id}), but the {num_pictures} "
                f"pictures make {expected}. Each picture needs its own tokens in the prompt, and a prompt without a "
                f"picture has none."
            )
            raise ValueError(msg)
        length = input_ids.shape[1] + room
        if length > self.max_tokens:
            msg = (
                f"{input_ids.shape[1]} tokens of the prompt ({num_image_tokens} of the batch from pictures) and {room} "
                f"more are {length}, but this VLM reads {self.max_tokens}: use fewer or smaller pictures, or less text."
            )
            raise ValueError(msg)

    def _check_layers(self, layers: Sequence[int]) -> None:
        count = int(self.model.config.text_config.num_hidden_layers) + 1
        wrong = [layer for layer in layers if not -count <= layer < count]
        if wrong or not layers:
            msg = f"layers is {list(layers)}; this VLM has hidden states 0 (embeddings) to {count - 1} (last layer)."
            raise ValueError(msg)

    def _embed(self, input_ids: Tensor, pixel_values: Tensor | None, image_grid_thw: Tensor | None) -> Tensor:
        """Embed tokens and put the pictures in their places, shape (B, S, D)."""
        embeds = self.model.get_input_embeddings()(input_ids)
        if pixel_values is None:
            return embeds
        pictures = torch.cat(self.model.model.get_image_features(pixel_values, image_grid_thw).pooler_output)
        return embeds.masked_scatter((input_ids == self.image_token_id).unsqueeze(-1), pictures.to(embeds))
