"""One iteration of reinforcement: sample, score, optimise."""

from __future__ import annotations

import time
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from unipic2_dit import flow
from unipic2_train.rl.advantages import advantages, total_reward
from unipic2_train.rl.chunks import joined
from unipic2_train.rl.guards import Guards
from unipic2_train.rl.objectives import GRPO, NFT, Objective
from unipic2_train.rl.old_policy import OldPolicy
from unipic2_train.rl.optimise import optimise
from unipic2_train.rl.rollout import Rollout, sample
from unipic2_train.rl.score import Scores, Scoring

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from torch.optim import Optimizer

    from unipic2_data.batch import Batch
    from unipic2_train.kontext import Kontext
    from unipic2_train.rewards.base import WeightedReward
    from unipic2_train.rl.advantages import Advantages
    from unipic2_train.rl.config import RLConfig
    from unipic2_train.rl.guards import GuardsConfig
    from unipic2_train.rl.layout import Layout

__all__ = ["Reinforcement"]


class Reinforcement:
    """What an iteration needs beside its rows, and what outlives it.

    Args:
        kontext: The model; its transformer is the policy.
        config: The algorithm.
        rewards: Rewards by name.
        guards: What is watched.
    """

    def __init__(
        self, kontext: Kontext, config: RLConfig, rewards: Mapping[str, WeightedReward], guards: GuardsConfig
    ) -> None:
        self.kontext, self.config, self.rewards, self.guards = kontext, config, rewards, Guards(guards)
        self.old = OldPolicy(kontext.transformer, config.nft.old_decay) if config.algorithm == "nft" else None
        self._seconds: dict[str, float] = {}
        self._prepared = False

    def step(self, batch: Batch, layout: Layout, optimizer: Optimizer, iteration: int) -> dict[str, float]:
        """Run one iteration on its rows and return what to log.

        Raises:
            ValueError: A reward is not there, or too many scores failed.
        """
        self._prepare()
        with self._scoring(batch, layout) as scoring:
            with self._timed("sample"), self._sampling_policy():
                rollout = self._sample(batch, scoring, iteration)
                objective = self._objective(rollout, batch, layout)
            with self._timed("score"):
                scores = scoring.finish()
                self._refuse_failures(scores)
                gained = advantages(scores.rewards, scores.weights, layout.group_of, self.config.advantages)
                metrics = self._score_metrics(scores, gained, layout) | self._watch(rollout, scores, layout)
        with self._timed("optimise"):
            update_of = layout.update_of(batch, self.config.updates, self.config.seed)
            supervised = self._supervised(batch, layout)
            learnt = optimise(self.kontext.transformer, optimizer, objective, rollout, gained, update_of, layout,
                              self.config, supervised)  # fmt: skip
        if self.old is not None:
            self.old.follow()
        metrics |= {f"rl/{name}": value for name, value in learnt.items()}
        return metrics | {f"speed/{name}_seconds": value for name, value in self._seconds.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return what the next iterations depend on beside weights and optimiser; a collective call under FSDP."""
        return {"guards": self.guards.state_dict(), "old": None if self.old is None else self.old.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.guards.load_state_dict(state["guards"])
        if self.old is not None and state["old"] is not None:
            self.old.load_state_dict(state["old"])

    def _prepare(self) -> None:
        """Load or reach what scores before anything is sampled, once, and say what it is."""
        if self._prepared:
            return
        judges = {name: entry.reward for name, entry in self.rewards.items()}
        if self.guards.config.held_out is not None:
            judges["the held-out judge"] = self.guards.config.held_out
        for name, judge in judges.items():
            rank_zero_info(f"{name}: scored by {judge.prepare()}")
        self._prepared = True

    def _scoring(self, batch: Batch, layout: Layout) -> Scoring:
        held_out, micro_batch = self.guards.config.held_out, self.config.rollout.micro_batch
        return Scoring(self.kontext.frozen, batch, layout, self.rewards, held_out, micro_batch)

    def _sample(self, batch: Batch, scoring: Scoring, iteration: int) -> Rollout:
        """Sample this process's images part by part and hand each to whom scores it elsewhere."""
        done = []
        for part in scoring.parts:
            done.append(sample(self.kontext.transformer, self.kontext.frozen, batch, part, self.config, iteration))
            scoring.add(part, done[-1])
        return joined(done)

    def _sampling_policy(self) -> AbstractContextManager[None]:
        """Return the context in which images are sampled: GRPO's raw weights, DiffusionNFT's old policy."""
        return nullcontext() if self.old is None else self.old.applied()

    def _objective(self, rollout: Rollout, batch: Batch, layout: Layout) -> Objective:
        transformer, frozen = self.kontext.transformer, self.kontext.frozen
        if self.config.algorithm == "nft":
            return NFT(transformer, self.config, rollout, batch, layout, frozen.shift)
        sigmas = flow.sampling_sigmas(self.config.rollout.steps, frozen.scheduler)
        return GRPO(transformer, self.config, rollout.window, sigmas)

    def _supervised(self, batch: Batch, layout: Layout) -> Callable[[], Tensor] | None:
        """Return the supervised loss of this process's share of the rows."""
        if not self.config.sft_weight:
            return None
        share = layout.groups // layout.world_size
        rows = _rows(batch, slice(layout.rank * share, (layout.rank + 1) * share))
        return lambda: self.config.sft_weight * self.kontext.training_loss(rows).loss

    def _refuse_failures(self, scores: Scores) -> None:
        limit = self.config.advantages.max_failures
        if scores.failures > limit:
            counts = scores.rewards.isnan().sum(0).tolist()
            each = ", ".join(f"{name} {count}" for name, count in zip(scores.names, counts, strict=True))
            msg = (
                f"{scores.failures:.0%} of {len(scores.rewards)} images have a failed score ({each}), more than "
                f"model.rl.advantages.max_failures {limit:.0%}: is the reward's server up?"
            )
            raise ValueError(msg)

    def _score_metrics(self, scores: Scores, gained: Advantages, layout: Layout) -> dict[str, float]:
        kind, groups = scores.request.kind, layout.group_of
        total = total_reward(scores.rewards, scores.weights)
        kept_groups = groups[gained.kept].unique()
        metrics = {
            f"rl/reward_{kind}/{name}": float(column.nanmean())
            for name, column in zip(scores.names, scores.rewards.T, strict=True)
        }
        return metrics | {
            f"rl/reward_{kind}": float(total.nanmean()),
            f"rl/reward_spread_{kind}": float(total[~total.isnan()].std(correction=0)),
            "rl/failed_share": scores.failures,
            "rl/dropped_groups_share": 1 - len(kept_groups) / layout.groups,
        }

    def _watch(self, rollout: Rollout, scores: Scores, layout: Layout) -> dict[str, float]:
        reward = float(total_reward(scores.rewards, scores.weights).nanmean())
        found = self.guards.watch(rollout, scores.request, layout, reward, scores.held_out)
        return {f"guard/{name}_{scores.request.kind}": value for name, value in found.items()}

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self.kontext.frozen.device.type == "cuda":
            torch.cuda.synchronize(self.kontext.frozen.device)
        self._seconds[phase] = time.perf_counter() - start


def _rows(batch: Batch, rows: slice) -> Batch:
    parts: dict[str, Any] = {
        name: value[rows] for name, value in vars(batch).items() if isinstance(value, (Tensor, list))
    }
    return replace(batch, **parts)
