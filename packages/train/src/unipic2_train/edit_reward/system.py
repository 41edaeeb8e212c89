"""The edit reward that stage ``edit-reward`` trains: network, loss on whole groups, and its export.

Legend: N groups, k edits of each, B = N * k.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from unipic2_train import home
from unipic2_train.edit_reward.folder import save_edit_reward
from unipic2_train.edit_reward.network import PROMPT, EditRewardNetwork, VlmAdapterConfig, add_adapter, asked, shard
from unipic2_train.objectives.edit_reward import EditRewardLoss, EditRewardObjective, edit_reward_loss
from unipic2_train.rl.merge import merged_values
from unipic2_train.weights import full_values
from unipic2_vlm.checkpoint import load_model, resolve_folder
from unipic2_vlm.processor import QwenVLProcessor

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from unipic2_data.batch import Batch
    from unipic2_train.edit_reward.data import ScoreFacts

__all__ = ["EditRewardConfig", "EditRewardSystem"]


@dataclass
class EditRewardConfig:
    """What an edit reward starts from and how it learns."""

    vlm: str
    """Folder or hub id of a Qwen2.5-VL, or ``home:PRESET/vlm``."""
    train: Literal["head", "adapter", "all"] = "all"
    """What learns: the head on a frozen VLM; the head and a LoRA adapter; the head and the whole VLM."""
    adapter: VlmAdapterConfig | None = None
    """The adapter of ``train: adapter``; ``null``: the usual one."""
    question: str = PROMPT
    """What the VLM is asked about source and result, with ``<prompt>`` where the instruction goes."""
    objective: EditRewardObjective = field(default_factory=EditRewardObjective)
    """Regression and ranking."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    seed: int = 0
    """Seed of an adapter's weights."""

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if self.adapter is not None and self.train != "adapter":
            msg = f"model.edit_reward.adapter needs train: adapter, not {self.train!r}"
            raise ValueError(msg)
        if PROMPT not in self.question:
            msg = f"model.edit_reward.question must say with {PROMPT} where the instruction goes, got {self.question!r}"
            raise ValueError(msg)


class EditRewardSystem(nn.Module):
    """The network to train, and the scores that it is to predict.

    Args:
        config: What to build.
        scores: Mean and std of the judge's scores, who it is, and how many edits a group has.
        device: Where. Under ``mesh`` every process reads the VLM into its own memory before it keeps its share.
        mesh: Shard over this mesh (FSDP2).
    """

    def __init__(
        self, config: EditRewardConfig, scores: ScoreFacts, device: torch.device, mesh: DeviceMesh | None = None
    ) -> None:
        super().__init__()
        self.config, self.facts = config, scores
        self.start = resolve_folder(home.path(config.vlm))
        self.processor = QwenVLProcessor.from_pretrained(self.start)
        self.network = EditRewardNetwork(load_model(self.start, device=None if mesh else device).model)
        if config.train == "adapter":
            add_adapter(self.network, self.adapter, config.seed)
        else:
            self.network.model.requires_grad_(config.train == "all")
        if config.gradient_checkpointing:
            self.network.enable_gradient_checkpointing()
        if mesh is not None:
            shard(self.network, mesh)
        self.device = device

    @property
    def adapter(self) -> VlmAdapterConfig:
        """The adapter that is trained, if one is."""
        return self.config.adapter or VlmAdapterConfig()

    @property
    def backbone(self) -> None:
        """None: the VLM is the reward's own, and what of it is frozen is among what is untrained."""

    def untrained(self) -> dict[str, nn.Module]:
        """Return what has to be the same after training: the VLM, or what an adapter adapts."""
        return {} if self.config.train == "all" else {"vlm": self.network.model}

    def training_loss(self, batch: Batch) -> EditRewardLoss:
        """Return the loss of whole groups, B rows in the order of the groups."""
        return edit_reward_loss(*self.judged(batch), self.config.objective)

    def judged(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return what is predicted and what the judge said, NaN where it failed, in standard deviations, (N, k) each.

        Args:
            batch: Edits: the source as reference, the result as target.
        """
        assert batch.reference_bytes is not None
        assert batch.target_bytes is not None
        shown = batch.reference_bytes, batch.target_bytes, batch.prompts
        inputs = asked(self.processor, self.config.question, *shown).to(self.device)
        scores = (self.facts.of(batch) - self.facts.mean) / self.facts.std
        shape = (-1, self.facts.per_group)
        return self.network(inputs).view(shape), scores.float().to(self.device).view(shape)

    def export(self, folder: Path, facts: dict[str, Any], *, write: bool) -> None:
        """Write the reward as it is now. Every rank calls this; the one with ``write`` writes."""
        config = self.config
        head = full_values(self.network.head)
        trunk = None
        if config.train == "adapter":
            trunk = merged_values(self.network.model, self.adapter.alpha)
        elif config.train == "all":
            trunk = full_values(self.network.model)
        if write:
            record = {
                "question": config.question,
                "mean": self.facts.mean,
                "std": self.facts.std,
                "judge": self.facts.judge,
                "vlm": config.vlm if trunk is None else None,
            }
            save_edit_reward(folder, self.start, trunk, head, record, {**facts, "vlm": config.vlm})
