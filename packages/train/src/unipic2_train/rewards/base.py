"""What a reward is: anything that scores a batch of pictures.

A reward is a class of its own; a recipe names it by ``class_path`` and gives it a weight, and every reward is logged
apart. It may run in this process or ask a server. A score that could not be had is NaN, never a number: its image is
left out of its group, counted, and beyond a rate the run stops.

Building a reward costs nothing: what scores is loaded, or reached, by ``prepare`` or the first call.

Legend: B pictures.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unipic2_evals.answers import JudgeId
from unipic2_train import __version__

__all__ = ["Reward", "RewardRequest", "WeightedReward", "scores_of"]


@dataclass
class RewardRequest:
    """Pictures of one kind to score, and what was asked for."""

    kind: str
    """"t2i" or "edit"."""
    pictures: Tensor
    """What was made, uint8 (B, H, W, 3), on the CPU."""
    prompts: list[str]
    """What was asked for, B."""
    groups: list[str]
    """Key of the row that each picture was made for: the pictures of a group share it, B."""
    meta: list[dict[str, Any]]
    """JSON object of each row, with what a scorer needs beside the text (see ``unipic2_data.sample``), B."""
    sources: Tensor | None = None
    """Pictures to edit, uint8 (B, H', W', 3), or ``None``."""
    targets: Tensor | None = None
    """How the data's own edit looks, uint8 (B, H, W, 3), or ``None``."""
    readable: Tensor | None = None
    """Rows whose data could be read, bool (B,); ``None``: all. A quarantined row has nothing to score a picture by."""

    def __len__(self) -> int:
        return len(self.prompts)

    def rows(self, chosen: Tensor) -> RewardRequest:
        """Return the request of the chosen rows, bool (B,)."""
        numbers = chosen.nonzero().squeeze(1).tolist()
        return RewardRequest(
            self.kind,
            self.pictures[chosen],
            [self.prompts[number] for number in numbers],
            [self.groups[number] for number in numbers],
            [self.meta[number] for number in numbers],
            None if self.sources is None else self.sources[chosen],
            None if self.targets is None else self.targets[chosen],
        )


class Reward(ABC):
    """Scores pictures; better is higher."""

    kinds: tuple[str, ...] = ("t2i", "edit")
    """The kinds that this reward can score."""
    waits: bool = False
    """Whether it mostly waits for a server. Then it is called in threads, for some pictures while others are made."""
    whole_groups: bool = False
    """Whether it compares the pictures of a group with each other, which then must come in one call."""

    def prepare(self) -> JudgeId:
        """Load what scores, or see that it can be reached, and return who it is. A run calls this before it samples.

        Raises:
            ValueError: It is not there; the message says what to do.
        """
        return JudgeId(type(self).__name__, f"unipic2-train {__version__}")

    @abstractmethod
    def __call__(self, request: RewardRequest) -> Tensor:
        """Return one score a picture, float (B,); NaN where it could not be had."""


@dataclass
class WeightedReward:
    """A reward and its weight in the sum."""

    reward: Reward
    """Which, by class_path and init_args."""
    weight: float = 1.0
    """Its weight."""


def scores_of(name: str, reward: Reward, request: RewardRequest) -> Tensor:
    """Return a reward's scores, float64 (B,), checked; NaN for rows that could not be read, which it does not see.

    Raises:
        ValueError: The reward returned another number of scores.
    """
    if request.readable is not None and not bool(request.readable.all()):
        scores = torch.full((len(request),), torch.nan, dtype=torch.float64)
        if bool(request.readable.any()):
            scores[request.readable] = scores_of(name, reward, request.rows(request.readable))
        return scores
    # A reward computes as it was written, not in the precision that the network happens to be trained in.
    with torch.no_grad(), torch.autocast("cuda" if torch.cuda.is_available() else "cpu", enabled=False):
        scores = torch.as_tensor(reward(request), dtype=torch.float64).cpu()
    if scores.shape != (len(request),):
        msg = f"reward {name!r} returned scores of shape {tuple(scores.shape)} for {len(request)} pictures"
        raise ValueError(msg)
    return scores.masked_fill(~scores.isfinite(), torch.nan)
