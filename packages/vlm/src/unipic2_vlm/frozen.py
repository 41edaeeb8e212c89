"""Proof that a VLM was not touched: hashes of its weights, and its logits for a fixed input, bit by bit.

Understanding is untouched by training because the VLM is frozen (UniPic 2.0, arXiv 2509.04548, section 3). Take a proof
before a stage and verify it afterwards.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unipic2_vlm.backbone import QwenVLBackbone

__all__ = ["FrozenProof", "NotFrozenError", "tensor_hashes"]

PROBE_TOKENS = 8
PROBE_GRID = (1, 4, 4)
_MAX_LISTED = 20


class NotFrozenError(RuntimeError):
    """A model that should not have changed did; the message says what changed."""


@dataclass(frozen=True)
class FrozenProof:
    """What a VLM was at one moment."""

    hashes: dict[str, str]
    """SHA-256 of each parameter and buffer, by name."""
    logits: Tensor
    """Logits of a fixed prompt with a fixed picture, on the CPU."""

    @classmethod
    def of(cls, backbone: QwenVLBackbone) -> FrozenProof:
        """Take the proof of a VLM as it is."""
        return cls(tensor_hashes(backbone.model), _probe(backbone))

    @property
    def digest(self) -> str:
        """One SHA-256 of all weights, to write down."""
        lines = (f"{name} {value}" for name, value in sorted(self.hashes.items()))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def verify(self, backbone: QwenVLBackbone) -> None:
        """Make sure that the VLM is what it was.

        Raises:
            NotFrozenError: If a weight or the logits differ in a single bit.
        """
        now = FrozenProof.of(backbone)
        names = sorted(self.hashes.keys() | now.hashes.keys())
        changed = [name for name in names if self.hashes.get(name) != now.hashes.get(name)]
        if changed:
            more = f", and {len(changed) - _MAX_LISTED} more" if len(changed) > _MAX_LISTED else ""
            msg = f"The frozen VLM has changed: {', '.join(changed[:_MAX_LISTED])}{more}."
            raise NotFrozenError(msg)
        if not torch.equal(self.logits, now.logits):
            difference = (self.logits - now.logits).abs().max().item()
            msg = f"The VLM's weights are what they were, but its logits differ by up to {difference:.3g}."
            raise NotFrozenError(msg)


def tensor_hashes(module: nn.Module) -> dict[str, str]:
    """Return the SHA-256 of each parameter and saved buffer of a module: its bytes, dtype and shape."""
    hashes = {}
    for name, tensor in module.state_dict().items():
        value = tensor.detach().cpu().contiguous()
        found = hashlib.sha256(f"{value.dtype} {tuple(value.shape)}".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy())
        hashes[name] = found.hexdigest()
    return hashes


@torch.no_grad()
def _probe(backbone: QwenVLBackbone) -> Tensor:
    """Return the logits of some tokens around a picture of a few patches."""
    config = backbone.model.config
    vision = config.vision_config
    grid = torch.tensor([PROBE_GRID])
    patch = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    pixels = torch.linspace(-1, 1, int(grid.prod()) * patch).reshape(-1, patch)
    num_image_tokens = int(grid.prod()) // vision.spatial_merge_size**2
    words = [index for index in range(PROBE_TOKENS + 2) if index not in (config.image_token_id, config.video_token_id)]
    ids = torch.tensor([[*words[:2], *[config.image_token_id] * num_image_tokens, *words[2:PROBE_TOKENS]]])
    with backbone.evaluating() as model:
        output = model(
            input_ids=ids.to(backbone.device),
            attention_mask=torch.ones_like(ids).to(backbone.device),
            mm_token_type_ids=(ids == config.image_token_id).int().to(backbone.device),
            pixel_values=pixels.to(backbone.device),
            image_grid_thw=grid.to(backbone.device),
            use_cache=False,
        )
    return output.logits.cpu()
