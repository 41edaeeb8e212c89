"""Which samples every optimiser step sees: a pure function of (cells, seed, ratio of tasks, step).

A **cell** is the samples of one source, kind and size. A step has one kind and one size. Kinds take turns by the ratio
of tasks. Within a kind, an epoch holds as many full global batches of each size as that size has samples for, in an
order shuffled anew each epoch; what does not fill a batch moves to the next epoch. Within a size, sources are
interleaved evenly in the ratio of their quotas, sample by sample; within a cell, samples come epoch by epoch without
replacement (`order`). The number of ranks, workers and accumulated micro-batches only says who takes which rows of a
global batch: the sequence of global batches is the same.

Legend: G samples of a global batch, Q quota of a size: its samples in an epoch, E epochs.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np

from unipic2_data.errors import DataError
from unipic2_data.order import EpochOrder
from unipic2_data.randomness import keyed_rng
from unipic2_data.sample import KINDS

__all__ = ["Cell", "Plan", "Step", "interleave", "rank_rows"]

_LONGEST_TURN = 10_000


@dataclass(frozen=True, eq=False)
class Cell:
    """The samples of one source, kind and size.

    Attributes:
        kind: t2i, edit, qa or prompt.
        count: Samples; None = unknown, they come as a stream.
        size: (H, W) of the batch in pixels; None = the loader's one size.
        source: Number of the source.
        quota: Samples in an epoch of the mix; None = `count`.
        runs: First sample of each shard if the cell is to be shuffled by shards, see `EpochOrder`.
        window: Shards that are shuffled together.
    """

    kind: str
    count: int | None
    size: tuple[int, int] | None = None
    source: int = 0
    quota: int | None = None
    runs: np.ndarray | None = None
    window: int | None = None

    @property
    def share(self) -> int:
        """Samples in an epoch of the mix."""
        share = self.count if self.quota is None else self.quota
        assert share is not None
        return share

    @property
    def name(self) -> str:
        """What the order of the samples is keyed by: the kind, and what else there is."""
        source = f"/{self.source}" if self.source else ""
        return f"{self.kind}{source}" + (f"/{self.size[0]}x{self.size[1]}" if self.size else "")


@dataclass(frozen=True)
class Step:
    """One global batch of G rows.

    Attributes:
        kind: Its kind.
        size: (H, W) in pixels, or None = the loader's one size.
        cells: Number of the cell of each row, int64 (G,).
        indices: Number of the sample in its cell, int64 (G,); of a stream, the number of the sample in the run.
        visits: The epoch that each sample is seen in, int64 (G,); 0 in a stream.
    """

    kind: str
    size: tuple[int, int] | None
    cells: np.ndarray
    indices: np.ndarray
    visits: np.ndarray


class Plan:
    """The sequence of global batches.

    Args:
        cells: What there is; samples of each kind stand for one cell each.
        seed: Seed of the order.
        global_batch: Samples of one optimiser step, over all ranks and accumulated micro-batches.
        tasks: Ratio of the kinds by optimiser steps, for example ``{"t2i": 2, "edit": 1}``; None = every kind that
            the data has, evenly. A kind that is not named is not used.

    Raises:
        DataError: If a named kind is unknown or missing in the data, or a ratio is not positive.
    """

    def __init__(
        self,
        cells: Sequence[Cell] | Mapping[str, int],
        seed: int,
        global_batch: int,
        tasks: Mapping[str, float] | None = None,
    ) -> None:
        if global_batch < 1:
            msg = f"global batch must be at least 1, got {global_batch}."
            raise DataError(msg)
        self.cells = [Cell(kind, n) for kind, n in cells.items()] if isinstance(cells, Mapping) else list(cells)
        self.seed, self.global_batch = seed, global_batch
        counts: dict[str, int] = {}
        for cell in self.cells:
            counts[cell.kind] = counts.get(cell.kind, 0) + cell.share
        self.tasks = _check_tasks(counts, tasks)
        self._turn = _turns(self.tasks)
        self._lanes: dict[str, dict[tuple[int, int] | None, list[int]]] = {kind: {} for kind in self.tasks}
        for number, cell in enumerate(self.cells):
            if cell.kind in self.tasks and cell.share:
                self._lanes[cell.kind].setdefault(cell.size, []).append(number)
        self._orders = {
            number: EpochOrder(seed, cell.name, cell.count, cell.runs, cell.window)
            for number, cell in enumerate(self.cells)
            if cell.count
        }
        self._schedule = lru_cache(maxsize=2 * len(self.tasks))(self._lane_order)
        self.step = lru_cache(maxsize=2)(self._step)

    def __reduce__(self) -> tuple:
        return Plan, (self.cells, self.seed, self.global_batch, self.tasks)

    def kind(self, step: int) -> str:
        """Return the kind of optimiser step number `step` (from 0)."""
        return self._turn[step % len(self._turn)]

    def left_over(self, epoch: int) -> dict[tuple[str, tuple[int, int] | None], int]:
        """Return how many samples of each kind and size an epoch hands on to the next, as they fill no batch."""
        return {
            (kind, size): (epoch + 1) * self._quota(lane) % self.global_batch
            for kind, lanes in self._lanes.items()
            for size, lane in lanes.items()
        }

    def _step(self, step: int) -> Step:
        """Return the global batch of optimiser step number `step` (from 0)."""
        kind = self.kind(step)
        rounds, place = divmod(step, len(self._turn))
        number = rounds * self._turn.count(kind) + self._turn[:place].count(kind)  # earlier batches of this kind
        size, ordinal = self._lane_of(kind, number)
        lane = self._lanes[kind][size]
        picked, counters = interleave(
            [self.cells[cell].share for cell in lane], ordinal * self.global_batch, self.global_batch
        )
        cells = np.array(lane, np.int64)[picked]
        indices, visits = counters.copy(), np.zeros_like(counters)
        for cell in lane:
            rows = np.flatnonzero(cells == cell)
            if len(rows) and cell in self._orders:
                indices[rows], visits[rows] = self._orders[cell].take(int(counters[rows[0]]), len(rows))
        return Step(kind, size, cells, indices, visits)

    def _lane_of(self, kind: str, number: int) -> tuple[tuple[int, int] | None, int]:
        """Return the size of batch number `number` of a kind, and how many earlier ones have that size."""
        lanes = self._lanes[kind]
        if len(lanes) == 1:
            return next(iter(lanes)), number
        lowest = number * self.global_batch // sum(map(self._quota, lanes.values()))
        highest = (number + len(lanes)) * self.global_batch // min(map(self._quota, lanes.values())) + 2
        epoch = bisect_right(range(lowest, highest), number, key=lambda epoch: self._batches(kind, epoch)) - 1 + lowest
        order, earlier = self._schedule(kind, epoch)
        place = number - self._batches(kind, epoch)
        size = list(lanes)[order[place]]
        return size, epoch * self._quota(lanes[size]) // self.global_batch + int(earlier[place])

    def _quota(self, lane: list[int]) -> int:
        return sum(self.cells[cell].share for cell in lane)

    def _batches(self, kind: str, epochs: int) -> int:
        """Return the batches of a kind in so many epochs: the full ones of every size, floor(E Q / G) each."""
        return sum(epochs * self._quota(lane) // self.global_batch for lane in self._lanes[kind].values())

    def _lane_order(self, kind: str, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the size number of each batch of an epoch, and how many batches of that size came before in it."""
        quotas = [self._quota(lane) for lane in self._lanes[kind].values()]
        full = [(epoch + 1) * quota // self.global_batch - epoch * quota // self.global_batch for quota in quotas]
        order = np.repeat(np.arange(len(full)), full)
        keyed_rng(self.seed, kind, epoch, "sizes").shuffle(order)
        earlier = np.empty_like(order)
        for lane, count in enumerate(full):
            earlier[order == lane] = np.arange(count)
        return order, earlier


def interleave(shares: Sequence[int], start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of the endless sequence in which every member comes evenly, in the ratio of the shares.

    The k-th row of member c stands at time (2k + 1) / shares[c]; rows are ordered by time, then by member.

    Args:
        shares: Positive share of each member.
        start: Number of the first row.
        count: Number of rows.

    Returns:
        Member of each row, and its k, int64 (count,) each.
    """
    if len(shares) == 1:
        return np.zeros(count, np.int64), np.arange(start, start + count)
    total, time = sum(shares), max(0, start - len(shares))
    # Rows of each member with (2k + 1) / share < 2 time / total: never more than `start` in all.
    before = [max(0, -((total - 2 * time * share) // (2 * total))) for share in shares]
    skipped = start - sum(before)
    needed = skipped + count
    unit = math.lcm(*shares)
    rows = sorted(
        ((2 * k + 1) * (unit // share), member, k)
        for member, share in enumerate(shares)
        for k in range(before[member], before[member] + (needed + len(shares)) * share // total + 2)
    )[skipped:needed]
    return np.array([member for _, member, _ in rows], np.int64), np.array([k for *_, k in rows], np.int64)


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
