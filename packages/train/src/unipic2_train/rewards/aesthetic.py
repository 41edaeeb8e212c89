"""Reward ``aesthetic``: LAION's predictor of how people rate a picture, a head on CLIP-L's unit vectors.

The head is a chain of linear layers without anything between them: one (predictor 1) or five (predictor 2, whose
dropout is off when it scores).
"""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from unipic2_evals.answers import JudgeId
from unipic2_train.rewards.base import Reward, RewardRequest
from unipic2_train.rewards.clip import Clip
from unipic2_train.rewards.pretrained import load_tensors, weights_hash

__all__ = ["AestheticReward", "head_of"]

HIGHEST = 10.0


class AestheticReward(Reward):
    """Predicted rating over 10, about 0.4 to 0.7; whatever the prompt.

    Args:
        model: Folder or hub id of the CLIP model that the head belongs to: openai/clip-vit-large-patch14.
        head: The head's weights, a safetensors file with LAION's names: ``layers.N.weight`` and ``layers.N.bias``, or
            ``weight`` and ``bias`` alone.
        revision: Commit of a hub id.
        device: Where it runs; ``cuda`` is this process's GPU.
    """

    def __init__(self, model: str, head: str, revision: str | None = None, device: str = "cpu") -> None:
        self.model, self.head, self.revision, self.device = model, Path(head), revision, device

    def prepare(self) -> JudgeId:
        """Load model and head and return which they are."""
        clip, _ = self._loaded
        name, revision = clip.who
        return JudgeId(f"{name} + {self.head.name}", f"{revision} + {weights_hash([self.head])}")

    def __call__(self, request: RewardRequest) -> Tensor:
        """Return one score a picture, (B,)."""
        clip, head = self._loaded
        with torch.inference_mode():
            return head(clip.pictures(request.pictures))[:, 0].cpu() / HIGHEST

    @cached_property
    def _loaded(self) -> tuple[Clip, nn.Module]:
        tensors = load_tensors(self.head)  # before the large download
        clip = Clip(self.model, self.revision, self.device)
        return clip, head_of(tensors, clip.model.config.projection_dim, self.head).to(self.device)


def head_of(tensors: dict[str, Tensor], width: int, where: Path) -> nn.Module:
    """Return the head that these weights are of: width -> ... -> 1.

    Raises:
        ValueError: They are no chain of linear layers of this width.
    """
    found = {re.sub(r"^layers\.|\.?(weight|bias)$", "", name) for name in tensors}
    numbers = sorted(found, key=lambda number: int(number or 0)) if all(re.fullmatch(r"\d*", n) for n in found) else []
    layers: list[nn.Module] = []
    before = width
    for number in numbers:
        prefix = f"layers.{number}." if number else ""
        weight, bias = (tensors.get(f"{prefix}{name}", torch.empty(0)) for name in ("weight", "bias"))
        if weight.ndim != 2 or weight.shape[1] != before or bias.shape != weight.shape[:1]:
            break
        layer = nn.Linear(before, len(weight))
        layer.load_state_dict({"weight": weight, "bias": bias})
        layers.append(layer)
        before = len(weight)
    if not layers or len(layers) != len(numbers) or len(tensors) != 2 * len(layers) or before != 1:
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in sorted(tensors.items()))
        msg = (
            f"{where}: expected linear layers from {width} to 1 (`layers.N.weight`, `layers.N.bias`), got {shapes}; is "
            "the CLIP model the one that the head was trained on?"
        )
        raise ValueError(msg)
    return nn.Sequential(*layers).eval()
