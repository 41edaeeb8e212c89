"""The endless order of the samples of one cell: epoch by epoch, each without replacement, in an order of its own.

A cell that fits into memory as one permutation is shuffled as a whole. A larger one, or one whose shards can only be
read from front to back, is shuffled by shards, and then sample by sample within windows of consecutive shards: reads
stay within a few shards at a time, and neither time nor memory grows with the number of samples.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from unipic2_data.randomness import keyed_rng

__all__ = ["FULL_SHUFFLE", "EpochOrder"]

FULL_SHUFFLE = 2**20  # samples that are shuffled as a whole
_WINDOW_SAMPLES = 2**17
_KEPT_WINDOWS = 4


class EpochOrder:
    """The order of a cell's samples.

    Args:
        seed: Seed of the run.
        name: Name of the cell.
        count: Samples.
        runs: Number of the first sample of each shard, int64, beginning with 0; None = shuffle as a whole.
        window: Shards of a window; None = as many as hold about 131,072 samples.
    """

    def __init__(
        self, seed: int, name: str, count: int, runs: np.ndarray | None = None, window: int | None = None
    ) -> None:
        self._seed, self._name, self._count = seed, name, count
        self._runs = None if runs is None else np.append(runs, count)
        self._window = window or (1 if runs is None else max(1, _WINDOW_SAMPLES * len(runs) // count))
        self._whole = lru_cache(maxsize=2)(self._shuffle_whole)
        self._shards = lru_cache(maxsize=2)(self._shuffle_shards)
        self._part = lru_cache(maxsize=_KEPT_WINDOWS)(self._shuffle_window)

    def __reduce__(self) -> tuple:
        runs = None if self._runs is None else self._runs[:-1]
        return EpochOrder, (self._seed, self._name, self._count, runs, self._window)

    def take(self, position: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return samples and epochs of positions in the endless order, int64 (count,) each.

        Args:
            position: First position, from 0.
            count: How many.
        """
        samples, epochs = [], []
        while count:
            epoch, start = divmod(position, self._count)
            part = self._from(epoch, start)[:count]
            samples.append(part)
            epochs.append(np.full(len(part), epoch, np.int64))
            position, count = position + len(part), count - len(part)
        return np.concatenate(samples), np.concatenate(epochs)

    def _from(self, epoch: int, start: int) -> np.ndarray:
        """Return at least one sample of an epoch from a position on."""
        if self._runs is None:
            return self._whole(epoch)[start:]
        _, bounds = self._shards(epoch)
        window = int(np.searchsorted(bounds, start, side="right")) - 1
        return self._part(epoch, window)[start - int(bounds[window]) :]

    def _shuffle_whole(self, epoch: int) -> np.ndarray:
        return keyed_rng(self._seed, self._name, epoch, "order").permutation(self._count)

    def _shuffle_shards(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the order of the shards, and the first position of each window of them."""
        assert self._runs is not None
        shards = keyed_rng(self._seed, self._name, epoch, "order").permutation(len(self._runs) - 1)
        stops = np.cumsum(np.diff(self._runs)[shards])
        return shards, np.append(0, stops[self._window - 1 :: self._window])

    def _shuffle_window(self, epoch: int, window: int) -> np.ndarray:
        assert self._runs is not None
        shards = self._shards(epoch)[0][window * self._window : (window + 1) * self._window]
        samples = np.concatenate([np.arange(self._runs[shard], self._runs[shard + 1]) for shard in shards.tolist()])
        keyed_rng(self._seed, self._name, epoch, f"window {window}").shuffle(samples)
        return samples
