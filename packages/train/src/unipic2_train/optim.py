"""Optimiser and learning-rate schedule of the stages.

The learning rate is per optimiser step (not per micro-batch), the schedule counts optimiser steps.
Defaults: Skywork UniPic 2.0 report, pre-training: AdamW (0.9, 0.95), eps 1e-8, weight decay 0.05, cosine decay.
A recipe may give the blocks' matrices to Muon instead, as the tiny preset does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.optim.lr_scheduler import LambdaLR

from unipic2_train.muon import Muon
from unipic2_train.training_checkpoint import trainable_parameters

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["MuonConfig", "OptimizerConfig", "configure", "learning_rate_factor"]

BLOCKS = ("transformer_blocks.", ".layers.", ".blocks.")
"""Found in the names of parameters of blocks: the DiT's, those of a language model or connector, a vision tower's."""


@dataclass
class MuonConfig:
    """Muon for the matrices of the transformer's blocks; AdamW keeps what is left (see ``unipic2_train.muon``)."""

    learning_rate: float = 0.02
    """Peak learning rate of the matrices, per optimiser step: how far all their directions move."""
    momentum: float = 0.95
    """Decay rate of the momentum."""


@dataclass
class OptimizerConfig:
    """AdamW, or Muon and AdamW, and their schedule."""

    learning_rate: float = 4e-5
    """Peak learning rate, per optimiser step."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of AdamW's first and second moments."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.05
    """Decoupled weight decay; matrices only, never biases or norms."""
    warmup_steps: int = 100
    """Optimiser steps of linear warm-up."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Decay after the warm-up, until the trainer's max_steps."""
    final_fraction: float = 0.0
    """Learning rate at max_steps, as a fraction of the peak."""
    muon: MuonConfig | None = None
    """Train the blocks' matrices with Muon; ``null``: AdamW for all."""


def learning_rate_factor(step: int, config: OptimizerConfig, max_steps: int) -> float:
    """Return the learning rate of an optimiser step as a fraction of the peak.

    Linear warm-up ``(step + 1) / warmup``, then ``f + (1 - f) (1 + cos(pi t)) / 2`` with ``t`` in [0, 1] from the end
    of the warm-up to ``max_steps``.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    progress = min(1.0, (step - config.warmup_steps) / max(1, max_steps - config.warmup_steps))
    return config.final_fraction + (1.0 - config.final_fraction) * 0.5 * (1.0 + math.cos(math.pi * progress))


class RecipeSchedule(LambdaLR):
    """A schedule whose learning rate is a function of recipe and step alone, also after a resume.

    The stock schedule restores its old peak and says nothing, so that a changed learning rate would be ignored.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the step; the learning rates follow from it."""
        super().load_state_dict({**state_dict, "base_lrs": self.base_lrs})
        for group, base, factor in zip(self.optimizer.param_groups, self.base_lrs, self.lr_lambdas, strict=True):
            group["lr"] = base * factor(self.last_epoch)


def configure(module: nn.Module, config: OptimizerConfig, max_steps: int) -> dict[str, Any]:
    """Return Lightning's optimiser configuration for the trainable parameters of a module.

    Raises:
        ValueError: A cosine schedule without a positive ``max_steps``, nothing to train, or nothing for Muon.
    """
    if config.schedule == "cosine" and max_steps <= 0:
        msg = "a cosine schedule needs --trainer.max_steps (a positive number of optimiser steps)"
        raise ValueError(msg)
    trained = trainable_parameters(module)
    if not trained:
        msg = "no parameter is trainable: check the recipe's adapter and freezing"
        raise ValueError(msg)
    hidden = {name for name, parameter in trained.items() if config.muon and _is_hidden_matrix(name, parameter)}
    if config.muon and not hidden:
        msg = "optimizer.muon found no matrix of a transformer block to train; leave it out for this stage or adapter"
        raise ValueError(msg)
    left = [parameter for name, parameter in trained.items() if name not in hidden]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in left if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in left if p.ndim < 2], "weight_decay": 0.0},
    ]
    if config.muon:
        matrices = [parameter for name, parameter in trained.items() if name in hidden]
        muon = {"lr": config.muon.learning_rate, "momentum": config.muon.momentum, "weight_decay": config.weight_decay}
        groups.append({"params": matrices, **muon})
    groups = [group for group in groups if group["params"]]
    defaults: dict[str, Any] = {"lr": config.learning_rate, "betas": config.betas, "eps": config.eps}
    optimizer = Muon(groups, **defaults) if config.muon else torch.optim.AdamW(groups, **defaults, fused=True)
    schedule = RecipeSchedule(optimizer, lambda step: learning_rate_factor(step, config, max_steps))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Tell what Muon is made for: matrices between hidden states, neither modulations nor the low ranks of a LoRA."""
    inside = any(part in name for part in BLOCKS)
    return parameter.ndim == 2 and inside and ".norm" not in name and "lora_" not in name
