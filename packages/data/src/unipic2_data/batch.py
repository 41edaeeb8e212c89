"""The batch that crosses from data to training: one kind, one size.

Pictures travel as bytes, from workers and to the device alike: a quarter of what floats are.

Legend: B samples, H/W height and width of the target in pixels, H'/W' of the reference; C/h/w of its latents.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from unipic2_data.quarantine import Fault
    from unipic2_data.streams import StreamProgress

__all__ = ["Batch"]


@dataclass
class Batch:
    """Samples of one kind and one size.

    Attributes:
        kind: t2i, edit, qa or prompt.
        keys: Sample keys, B.
        visits: How often each sample was seen before (its epoch), int64 (B,).
        prompts: The text of each sample, B.
        size: (H, W) of the targets in pixels.
        weight: Weight of each row in the loss, float32 (B,); 0 for a quarantined row.
        meta: JSON object of each sample, B; see `unipic2_data.sample`.
        target_bytes: Targets as they are decoded, uint8 (B, H, W, 3), or None; see `pixels`.
        reference_bytes: References, uint8 (B, H, W, 3), or None; see `references`.
        latents: Mean and log-variance of the targets' posterior, encoded earlier, (B, 2, C, h, w), or None.
        reference_latents: The same of the references.
        prompt_embeds: Text embeddings made earlier (B, L, D), or None.
        pooled: Pooled text embeddings made earlier (B, D), or None.
        faults: Row -> what is wrong with its sample; such a row has weight 0, zeros and an empty prompt.
        progress: How far the streams were read for this batch, or None if there are none.
        encoders: Hash of the encoder that made "latents" and "text", as far as the batch has them.
    """

    kind: str
    keys: list[str]
    visits: Tensor
    prompts: list[str]
    size: tuple[int, int]
    weight: Tensor
    meta: list[dict[str, Any]]
    target_bytes: Tensor | None = None
    reference_bytes: Tensor | None = None
    latents: Tensor | None = None
    reference_latents: Tensor | None = None
    prompt_embeds: Tensor | None = None
    pooled: Tensor | None = None
    faults: dict[int, Fault] = field(default_factory=dict)
    progress: StreamProgress | None = None
    encoders: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def pixels(self) -> Tensor | None:
        """Targets in [-1, 1], float32 (B, 3, H, W), or None; made on the device where the batch is."""
        return _to_floats(self.target_bytes)

    @property
    def references(self) -> Tensor | None:
        """References in [-1, 1], float32 (B, 3, H, W), or None; made on the device where the batch is."""
        return _to_floats(self.reference_bytes)

    @property
    def upscaled(self) -> int:
        """Samples whose picture was smaller than the batch's size and was enlarged."""
        return sum("upscale" in meta for meta in self.meta)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """Return the batch with its tensors on a device."""
        import torch

        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=non_blocking)
            for name, value in vars(self).items()
            if isinstance(value, torch.Tensor)
        }
        return replace(self, **moved)


def _to_floats(images: Tensor | None) -> Tensor | None:
    import torch

    if images is None:
        return None
    pixels = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    return pixels.div_(127.5).sub_(1)
