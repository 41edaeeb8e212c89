"""What reads prompts: SD3's text encoders, or a VLM with the connector, behind the same two methods.

Legend: B prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from PIL import Image
from torch import nn

from unipic2_connector.conditioner import MetaQueryConditioner
from unipic2_dit.conditioning import Conditioning
from unipic2_dit.text import TextConditioner
from unipic2_vlm.queries import QueryEncoder
from unipic2_vlm.understanding import Understanding

__all__ = ["Encoders", "MetaQueryEncoders", "Prompt", "TextEncoders"]


@dataclass(frozen=True)
class Prompt:
    """A prompt as encoders read it. Prompts are equal if their texts, kinds and pictures are."""

    text: str
    """The prompt, or the instruction of an edit. The empty one is valid: guidance leads away from it."""
    edit: bool = False
    """It is an instruction."""
    picture: Image.Image | None = field(default=None, compare=False, repr=False)
    """The picture that an encoder sees with it."""
    digest: str = ""
    """Hash of that picture."""


class Encoders(Protocol):
    """Turns prompts into what the transformer reads."""

    def modules(self) -> dict[str, nn.Module]:
        """Return the models by the names of their parts."""

    def encode(self, prompts: Sequence[Prompt], device: torch.device) -> Conditioning:
        """Encode prompts.

        Args:
            prompts: One a row.
            device: Where the encoders are and the result goes.

        Returns:
            The conditioning, B rows.
        """


@dataclass
class TextEncoders:
    """CLIP-L, CLIP-G and perhaps T5. They read no pictures, and an instruction like any prompt."""

    conditioner: TextConditioner

    def modules(self) -> dict[str, nn.Module]:
        """Return the models by the names of their parts."""
        names = ("text_encoder", "text_encoder_2", "text_encoder_3")
        found = {name: getattr(self.conditioner, name) for name in names}
        return {name: module for name, module in found.items() if module is not None}

    def encode(self, prompts: Sequence[Prompt], device: torch.device) -> Conditioning:
        """Encode prompts, B rows."""
        return self.conditioner([prompt.text for prompt in prompts], device=device)


@dataclass
class MetaQueryEncoders:
    """A VLM that reads prompts, with pictures, for the queries of a connector."""

    conditioner: MetaQueryConditioner
    vlm: QueryEncoder

    @property
    def understanding(self) -> Understanding:
        """The same VLM, for questions."""
        return Understanding(self.vlm.backbone, self.vlm.processor)

    def modules(self) -> dict[str, nn.Module]:
        """Return the models by the names of their parts."""
        return {"vlm": self.vlm.backbone, "conditioner": self.conditioner.conditioner}

    def encode(self, prompts: Sequence[Prompt], device: torch.device) -> Conditioning:
        """Encode prompts, B rows. Those with and without pictures, and instructions, are batches of their own."""
        kinds: dict[tuple[bool, bool], list[int]] = {}
        for index, prompt in enumerate(prompts):
            kinds.setdefault((prompt.edit, prompt.picture is not None), []).append(index)
        rows: dict[int, Conditioning] = {}
        for (edit, shown), indices in kinds.items():
            pictures = [prompts[index].picture for index in indices] if shown else None
            texts = [prompts[index].text for index in indices]
            made = Conditioning(*self.conditioner(texts, pictures, edit=edit, device=device))
            rows.update({index: made.rows(slice(place, place + 1)) for place, index in enumerate(indices)})
        return Conditioning.cat([rows[index] for index in range(len(prompts))])
