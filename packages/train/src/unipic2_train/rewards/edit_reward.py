"""Reward ``edit-reward``: a vision-language model with a regression head, trained by ``lightning run edit-reward``."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unipic2_evals.answers import JudgeId
from unipic2_train import home
from unipic2_train.rewards.base import Reward, RewardRequest

if TYPE_CHECKING:
    from unipic2_train.edit_reward.folder import EditRewardRecord
    from unipic2_train.edit_reward.network import EditRewardNetwork
    from unipic2_vlm.processor import QwenVLProcessor

__all__ = ["EditReward"]


class EditReward(Reward):
    """What the judge that it learnt from would say of an edit, in that judge's unit; about, so without bounds.

    Args:
        folder: The export of a run of stage ``edit-reward``, or ``home:PRESET/edit-reward``.
        device: Where it runs; ``cuda`` is this process's GPU.
        batch: Edits in one forward pass.
    """

    kinds = ("edit",)

    def __init__(self, folder: str, device: str = "cpu", batch: int = 32) -> None:
        if batch < 1:
            msg = f"batch must be 1 or more, got {batch}"
            raise ValueError(msg)
        self.folder, self.device, self.batch = folder, device, batch

    def prepare(self) -> JudgeId:
        """Load it and return which it is; its revision is a hash over all that a score depends on."""
        from unipic2_train.edit_reward.folder import reward_hash

        _, _, record = self._loaded
        return JudgeId("edit-reward", reward_hash(home.path(self.folder), record))

    def __call__(self, request: RewardRequest) -> Tensor:
        """Return one score a picture, (B,)."""
        from unipic2_train.edit_reward.network import asked

        if request.sources is None:
            msg = "an edit reward needs each edit's source, which the canonical kind `edit` has"
            raise ValueError(msg)
        network, processor, record = self._loaded
        parts = []
        for start in range(0, len(request), self.batch):
            rows = slice(start, start + self.batch)
            shown = request.sources[rows], request.pictures[rows], request.prompts[rows]
            with torch.inference_mode():
                parts.append(network(asked(processor, record.question, *shown).to(self.device)).double().cpu())
        return torch.cat(parts) * record.std + record.mean

    @cached_property
    def _loaded(self) -> tuple[EditRewardNetwork, QwenVLProcessor, EditRewardRecord]:
        from unipic2_train.edit_reward.folder import load_edit_reward

        return load_edit_reward(home.path(self.folder), self.device)
