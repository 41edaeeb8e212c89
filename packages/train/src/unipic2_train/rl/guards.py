"""Guards against reward hacking: what is watched beside the training reward, and the alarm.

Watched in every iteration: a held-out judge that training never sees, the diversity within groups, the drift of the
velocity's size, and for edits how many do nothing or too much. The alarm goes off when the training reward rises and
the held-out judge falls over the last iterations, each by a least-squares trend that is large beside its own error.

Legend: B images of this process, N of all.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unipic2_train.rewards.base import Reward, RewardRequest
from unipic2_train.rewards.regions import as_unit, changed_region, mean_square
from unipic2_train.rl.collective import summed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unipic2_train.rl.layout import Layout
    from unipic2_train.rl.rollout import Rollout

__all__ = ["Guards", "GuardsConfig", "edit_extent", "trend"]

DONE = 0.25  # an edit that changes less than this of what its target changes does nothing
BESIDE = 0.1  # an edit that changes more than this of it elsewhere does too much


@dataclass
class GuardsConfig:
    """What is watched, and what an alarm does."""

    held_out: Reward | None = None
    """A judge unlike every training reward: another detector, another model."""
    window: int = 30
    """Iterations (of one task) over which trends are taken."""
    threshold: float = 3.0
    """A trend counts if its slope is so many times its standard error."""
    stop: bool = False
    """Whether an alarm ends the run."""


class Guards:
    """The watched values of each iteration.

    Args:
        config: Judge, trend and alarm.
    """

    def __init__(self, config: GuardsConfig) -> None:
        self.config = config
        self.history: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self.first_speed: dict[str, float] = {}

    def watch(
        self, rollout: Rollout, request: RewardRequest, layout: Layout, reward: float, held_out: Tensor | None
    ) -> dict[str, float]:
        """Return the watched values of an iteration, and ``alarm``: 1 if it goes off.

        Args:
            rollout: This process's images.
            request: Their pictures.
            layout: Which images they are.
            reward: Mean training reward of all processes' images.
            held_out: The held-out judge's scores of all of them, (N,).
        """
        found = {
            "diversity": _diversity(rollout.latents, layout.group_of[layout.own], layout.groups),
            "velocity_drift": self._drift(rollout, request.kind),
        }
        if request.sources is not None and request.targets is not None:
            inside, beside = edit_extent(request.pictures, request.sources, request.targets)
            device = rollout.latents.device
            found["no_op_rate"] = _mean((inside < DONE).double().to(device))
            found["over_edit_rate"] = _mean((beside > BESIDE).double().to(device))
        if held_out is not None:
            found["held_out"] = float(held_out.nanmean())
            found["alarm"] = float(self._alarm(request.kind, reward, found["held_out"]))
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return what trends and drift are measured from."""
        return {"history": {kind: list(pairs) for kind, pairs in self.history.items()}, "speed": self.first_speed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.history.update({kind: list(pairs) for kind, pairs in state["history"].items()})
        self.first_speed = dict(state["speed"])

    def _drift(self, rollout: Rollout, kind: str) -> float:
        """Return the relative change of the velocity's size since the run's first iteration of this kind."""
        now = _mean(rollout.speed.double())
        return now / self.first_speed.setdefault(kind, now) - 1

    def _alarm(self, kind: str, reward: float, held_out: float) -> bool:
        if math.isnan(reward) or math.isnan(held_out):
            return False
        pairs = self.history[kind]
        pairs.append((reward, held_out))
        del pairs[: -self.config.window]
        if len(pairs) < self.config.window:
            return False
        rises, falls = (trend(values) for values in zip(*pairs, strict=True))
        return rises > self.config.threshold and falls < -self.config.threshold


def trend(values: Sequence[float]) -> float:
    """Return the slope of a least-squares line through evenly spaced values, over its standard error.

    With x centred: ``slope = sum(x y) / sum(x^2)``, ``error^2 = sum(residual^2) / ((n - 2) sum(x^2))``.
    """
    y = torch.tensor(values, dtype=torch.float64)
    x = torch.arange(len(y), dtype=torch.float64) - (len(y) - 1) / 2
    y = y - y.mean()
    slope = (x * y).sum() / (x**2).sum()
    error = (((y - slope * x) ** 2).sum() / ((len(y) - 2) * (x**2).sum())).sqrt()
    # A line without any residual has no error; rounding leaves it one of about this size.
    smallest = 1e-12 * y.abs().max() / (x**2).sum().sqrt()
    return float(slope / torch.maximum(error, smallest)) if y.any() else 0.0


def edit_extent(pictures: Tensor, sources: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return how much an edit changed where it was to, and elsewhere, (B,) each, as shares of the target's change.

    Mean squared differences to the source, inside and outside the region that source and target differ in, over that of
    the target inside.

    Args:
        pictures: Results, uint8 (B, H, W, 3).
        sources: Before, uint8 (B, H, W, 3).
        targets: As the data has it, uint8 (B, H, W, 3).
    """
    made, before, after = map(as_unit, (pictures, sources, targets))
    region = changed_region(before, after)
    asked = mean_square(after, before, region)
    return mean_square(made, before, region) / asked, mean_square(made, before, ~region) / asked


def _diversity(latents: Tensor, groups: Tensor, num_groups: int) -> float:
    """Return the standard deviation of latents within groups: root of the mean variance over groups and elements.

    Of some 256 elements, by ``E[x^2] - E[x]^2`` over all processes, since a group may lie across two.
    """
    flat = latents.double().flatten(1)
    flat = flat[:, :: max(1, flat.shape[1] // 256)]
    there = groups.to(flat.device)
    moments = torch.stack((torch.ones_like(flat), flat, flat**2))  # (3, B, elements)
    count, total, square = summed(moments.new_zeros(3, num_groups, flat.shape[1]).index_add(1, there, moments))
    return float((square / count - (total / count) ** 2).clamp(min=0).mean().sqrt())


def _mean(values: Tensor) -> float:
    """Return the mean over the rows of all processes that have a value."""
    known = ~values.isnan()
    total, count = summed(torch.stack((values.where(known, 0.0).sum(), known.sum().to(values.dtype)))).tolist()
    return total / count if count else float("nan")
