"""The batch arithmetic of an iteration: who samples which images, and which optimiser step takes them.

The images of an iteration are numbered group by group, and each process takes an equal stretch of the numbers; a group
may lie across two processes. Which update an image is for depends on its group and the seed, not on the process.

Legend: G groups, k images a group, N = G k images, W processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unipic2_data.randomness import keyed_rng
from unipic2_train.rl.window import sde_window

if TYPE_CHECKING:
    from unipic2_data.batch import Batch
    from unipic2_train.rl.config import RLConfig

__all__ = ["Layout"]


@dataclass(frozen=True)
class Layout:
    """An iteration's images over groups and processes.

    Args:
        images: N, over all processes.
        group_size: k.
        world_size: W.
        rank: This process.

    Raises:
        ValueError: The numbers do not divide; the message says which and how to mend it.
    """

    images: int
    group_size: int
    world_size: int = 1
    rank: int = 0

    def __post_init__(self) -> None:
        """Check that the numbers divide."""
        if self.group_size < 2:
            msg = f"data.group_size is {self.group_size}: an advantage compares the 2 or more images of a group"
            raise ValueError(msg)
        for name, parts in (("images a group", self.group_size), ("processes", self.world_size)):
            if self.images % parts:
                above = -(-self.images // parts) * parts
                msg = (
                    f"data.global_batch {self.images} (images an iteration) is no multiple of {parts} {name}: {above}?"
                )
                raise ValueError(msg)

    @property
    def groups(self) -> int:
        """G, the rows of the data that an iteration uses."""
        return self.images // self.group_size

    @property
    def own(self) -> slice:
        """The numbers of this process's images."""
        count = self.images // self.world_size
        return slice(self.rank * count, (self.rank + 1) * count)

    @property
    def group_of(self) -> Tensor:
        """Each image's group, int64 (N,)."""
        return torch.arange(self.images) // self.group_size

    def image_keys(self, batch: Batch) -> list[str]:
        """Return the keys of this process's images: that of the row and the number in its group."""
        numbers = range(self.images)[self.own]
        return [f"{batch.keys[number // self.group_size]}#{number % self.group_size}" for number in numbers]

    def update_of(self, batch: Batch, updates: int, seed: int) -> Tensor:
        """Return the optimiser step that takes each image, int64 (N,): the same number of every group in each."""
        parts = []
        for key, visit in zip(batch.keys, batch.visits.tolist(), strict=True):
            order = keyed_rng(seed, key, visit, "update-order").permutation(self.group_size)
            parts.append(torch.from_numpy(order) * updates // self.group_size)
        return torch.cat(parts)

    def check(self, config: RLConfig) -> None:
        """Check the numbers that this arithmetic shares with the algorithm's.

        Raises:
            ValueError: As the class does.
        """
        own, at_once = self.images // self.world_size, config.rollout.micro_batch
        if own > at_once and own % at_once:
            below = max(size for size in range(1, at_once) if own % size == 0)
            msg = (
                f"model.rl.rollout.micro_batch {at_once} must divide the {own} images of a process: {below}? Sampling "
                "and training take the same number of rows at once, so that importance ratios start at 1"
            )
            raise ValueError(msg)
        if self.group_size % config.updates:
            msg = (
                f"model.rl.updates {config.updates} must divide data.group_size {self.group_size}: each optimiser step "
                "takes an equal share of every group"
            )
            raise ValueError(msg)
        if config.sft_weight and self.groups % self.world_size:
            msg = (
                f"model.rl.sft_weight: the {self.groups} rows of an iteration must be a multiple of {self.world_size} "
                "processes, which share them"
            )
            raise ValueError(msg)

    def words(self, config: RLConfig) -> str:
        """Say in words what an iteration does."""
        own, rollout = self.images // self.world_size, config.rollout
        forwards = -(-own // rollout.micro_batch)
        rows = "two rows an image under guidance" if rollout.guidance > 1 else "one row an image"
        share = self.images // config.updates
        if config.algorithm == "nft":
            passes = f"{config.nft.levels} noise levels"
        else:
            count = len(sde_window(rollout.window, rollout.steps, 0, config.seed))
            passes = f"{count} of {rollout.steps} sampling steps"
        return (
            f"an iteration: {self.groups} rows x {self.group_size} images = {self.images} images. Each of "
            f"{self.world_size} processes samples {own} of them, {forwards} x {min(own, rollout.micro_batch)} at once "
            f"({rows}), in {rollout.steps} steps. Then {config.updates} optimiser steps, each on up to {share} images "
            f"x {passes}, accumulated over micro-batches of {rollout.micro_batch} a process."
        )
