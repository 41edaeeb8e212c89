"""Prompts and pictures to hidden states at learnable queries: what the connector reads.

Legend: B prompts, Q queries, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unipic2_vlm.backbone import LAST_LAYER, QwenVLBackbone
from unipic2_vlm.checkpoint import CheckpointError, Quantization, resolve_folder
from unipic2_vlm.processor import QwenVLProcessor

if TYPE_CHECKING:
    from PIL import Image

    from unipic2_vlm.positions import Positions

__all__ = ["QueryEncoder", "check_pair"]


@dataclass
class QueryEncoder:
    """A VLM that reads prompts for queries.

    Args:
        backbone: The VLM.
        processor: Its tokenizer and image processor.
        multiple: Edge of a patch of the DiT in px, VAE factor times patch size (16 for SD3.5); with the VLM's own
            config it decides at which size the VLM sees a picture.

    Raises:
        CheckpointError: If backbone and processor are not of the same VLM.
    """

    backbone: QwenVLBackbone
    processor: QwenVLProcessor
    multiple: int

    def __post_init__(self) -> None:
        check_pair(self.backbone, self.processor)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        multiple: int,
        *,
        revision: str | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        quantization: Quantization | None = None,
    ) -> QueryEncoder:
        """Load a VLM and its processor from one folder; see ``QwenVLBackbone.from_pretrained``."""
        folder = resolve_folder(source, revision=revision)
        backbone = QwenVLBackbone.from_pretrained(folder, dtype=dtype, device=device, quantization=quantization)
        return cls(backbone, QwenVLProcessor.from_pretrained(folder), multiple)

    @property
    def hidden_size(self) -> int:
        """Width D of queries and hidden states."""
        return self.backbone.hidden_size

    def __call__(
        self,
        prompts: Sequence[str],
        queries: Tensor,
        *,
        images: Sequence[Image.Image] | Tensor | None = None,
        edit: bool = False,
        positions: Positions = "1d",
        layers: Sequence[int] = LAST_LAYER,
    ) -> Tensor:
        """Return the hidden states at the queries; gradients reach the queries.

        Args:
            prompts: One prompt or instruction a row. The empty one is valid: guidance leads away from it.
            queries: Learnable embeddings, shape (Q, D).
            images: One picture a row as the DiT sees it, or pixels in [-1, 1], shape (B, 3, H, W), for edits.
            edit: The prompts are instructions, also without ``images``: the picture is then the DiT's alone.
            positions: ``1d`` (released) or ``mrope``.
            layers: Which hidden states; see ``QwenVLBackbone.query_states``.

        Returns:
            Hidden states, shape (B, Q, D * len(layers)).

        Raises:
            ValueError: If pictures do not fit the prompts or are too large, or there are too many tokens.
        """
        if edit or images is not None:
            inputs = self.processor.edit(prompts, images, self.multiple)
        else:
            inputs = self.processor.generation(prompts)
        inputs = inputs.to(self.backbone.device)
        return self.backbone.query_states(**inputs._asdict(), queries=queries, positions=positions, layers=layers)


def check_pair(backbone: QwenVLBackbone, processor: QwenVLProcessor) -> None:
    """Make sure that a processor is that of a backbone.

    Raises:
        CheckpointError: If their image tokens or patches differ.
    """
    config = backbone.model.config
    found = (processor.image_token_id, processor.image_processor.patch_size, processor.image_processor.merge_size)
    expected = (config.image_token_id, config.vision_config.patch_size, config.vision_config.spatial_merge_size)
    if found != expected:
        msg = (
            f"The processor has (image token, patch size, merge size) {found}, but the VLM's config says {expected}: "
            f"take both from one folder."
        )
        raise CheckpointError(msg)
