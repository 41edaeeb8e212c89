"""Optimiser and learning-rate schedule of the stages.

The learning rate is per optimiser step (not per micro-batch), the schedule counts optimiser steps.
Defaults: Skywork UniPic 2.0 report, pre-training: AdamW (0.9, 0.95), eps 1e-8, weight decay 0.05, cosine decay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.optim.lr_scheduler import LambdaLR

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

__all__ = ["OptimizerConfig", "configure", "learning_rate_factor"]


@dataclass
class OptimizerConfig:
    """AdamW and its schedule."""

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


def configure(parameters: Iterable[nn.Parameter], config: OptimizerConfig, max_steps: int) -> dict[str, Any]:
    """Return Lightning's optimiser configuration for the trainable parameters.

    Raises:
        ValueError: A cosine schedule without a positive ``max_steps``, or nothing to train.
    """
    if config.schedule == "cosine" and max_steps <= 0:
        msg = "a cosine schedule needs --trainer.max_steps (a positive number of optimiser steps)"
        raise ValueError(msg)
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained:
        msg = "no parameter is trainable: check the recipe's adapter and freezing"
        raise ValueError(msg)
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )
    schedule = RecipeSchedule(optimizer, lambda step: learning_rate_factor(step, config, max_steps))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
