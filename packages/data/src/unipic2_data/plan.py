"""Which samples every optimiser step sees: a pure function of (sample counts, seed, ratio of tasks, step).

A step has one kind. Kinds take turns by the ratio of tasks. Within a kind the samples come epoch by epoch, each epoch
in an order of its own, without replacement; a global batch that does not fit into an epoch goes on in the next one, so
batches are always full and every sample is seen once an epoch. The number of ranks, workers and accumulated
micro-batches only says who takes which rows of a global batch: the sequence of global batches is the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np

from unipic2_data.errors import DataError
from unipic2_data.randomness import keyed_rng
from unipic2_data.sample import KINDS

__all__ = ["Plan", "Step", "rank_rows"]

_LONGEST_TURN = 10_000


@dataclass(frozen=True)
class Step:
    """One global batch: its kind, the samples' numbers int64 (G,), and the epoch that each is seen in, int64 (G,)."""

    kind: str
    indices: np.ndarray
    visits: np.ndarray


class Plan:
    """The sequence of global batches.

    Args:
        counts: Samples of each kind that the data has.
        seed: Seed of the order.
        global_batch: Samples of one optimiser step, over all ranks and accumulated micro-batches.
        tasks: Ratio of the kinds by optimiser steps, for example ``{"t2i": 2, "edit": 1}``; None = every kind that
            the data has, evenly. A kind that is not named is not used.

    Raises:
        DataError: If a named kind is unknown or missing in the data, or a ratio is not positive.
    """

    def __init__(
        self, counts: Mapping[str, int], seed: int, global_batch: int, tasks: Mapping[str, float] | None = None
    ) -> None:
        if global_batch < 1:
            msg = f"global batch must be at least 1, got {global_batch}."
            raise DataError(msg)
        self.counts, self.seed, self.global_batch = dict(counts), seed, global_batch
        self.tasks = _check_tasks(counts, tasks)
        self._turn = _turns(self.tasks)
        self._order = lru_cache(maxsize=2 * len(self.tasks))(self._epoch_order)

    def __reduce__(self) -> tuple:
        return Plan, (self.counts, self.seed, self.global_batch, self.tasks)

    def kind(self, step: int) -> str:
        """Return the kind of optimiser step number `step` (from 0)."""
        return self._turn[step % len(self._turn)]

    def step(self, step: int) -> Step:
        """Return the global batch of optimiser step number `step` (from 0)."""
        kind = self.kind(step)
        rounds, place = divmod(step, len(self._turn))
        before = rounds * self._turn.count(kind) + self._turn[:place].count(kind)  # earlier batches of this kind
        position, left, count = before * self.global_batch, self.global_batch, self.counts[kind]
        indices, visits = [], []
        while left:
            epoch, start = divmod(position, count)
            part = self._order(kind, epoch)[start : start + left]
            indices.append(part)
            visits.append(np.full(len(part), epoch, np.int64))
            position, left = position + len(part), left - len(part)
        return Step(kind, np.concatenate(indices), np.concatenate(visits))

    def _epoch_order(self, kind: str, epoch: int) -> np.ndarray:
        return keyed_rng(self.seed, kind, epoch, "order").permutation(self.counts[kind])


def rank_rows(batch_size: int, micro: int, rank: int, world_size: int) -> slice:
    """Return the rows of a global batch that a rank takes in micro-batch number `micro` of the step."""
    start = (micro * world_size + rank) * batch_size
    return slice(start, start + batch_size)


def _check_tasks(counts: Mapping[str, int], tasks: Mapping[str, float] | None) -> dict[str, float]:
    present = [kind for kind in KINDS if counts.get(kind, 0) > 0]
    if not present:
        msg = "there are no samples to train on: every kind is empty."
        raise DataError(msg)
    if tasks is None:
        return dict.fromkeys(present, 1)
    if not tasks:
        msg = "tasks names no kind; leave it out to use all kinds evenly."
        raise DataError(msg)
    for kind, ratio in tasks.items():
        if kind not in present:
            msg = f"tasks names '{kind}', but the data has {', '.join(f'{k} ({counts[k]})' for k in present)}."
            raise DataError(msg)
        if not (math.isfinite(ratio) and ratio > 0):
            msg = f"the ratio of task '{kind}' must be a positive number, got {ratio}; leave the kind out to skip it."
            raise DataError(msg)
    return {kind: tasks[kind] for kind in KINDS if kind in tasks}


def _turns(tasks: Mapping[str, float]) -> list[str]:
    """Return the shortest sequence of kinds with exactly the ratio, each kind spread evenly over it."""
    exact = {kind: Fraction(ratio).limit_denominator(1000) for kind, ratio in tasks.items()}
    unit = math.lcm(*(ratio.denominator for ratio in exact.values()))
    whole = {kind: int(ratio * unit) for kind, ratio in exact.items()}
    shrink = math.gcd(*whole.values())
    whole = {kind: share // shrink for kind, share in whole.items()}
    length = sum(whole.values())
    if not all(whole.values()) or length > _LONGEST_TURN:
        msg = f"the ratio of tasks {dict(tasks)} is too fine; use small numbers such as 2 and 1."
        raise DataError(msg)
    credit, turns = dict.fromkeys(whole, 0), []
    for _ in range(length):  # smooth weighted round robin: the kind furthest behind its share goes next
        for kind, share in whole.items():
            credit[kind] += share
        chosen = max(credit, key=lambda kind: credit[kind])
        credit[chosen] -= length
        turns.append(chosen)
    return turns
