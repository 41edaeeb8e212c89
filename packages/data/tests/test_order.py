import pickle

import numpy as np
import pytest

from unipic2_data.order import EpochOrder
from unipic2_data.randomness import keyed_rng

RUNS = np.array([0, 5, 6, 16, 20, 33])
COUNT = 40


def test_a_cell_is_shuffled_as_a_whole():
    samples, epochs = EpochOrder(3, "t2i", 10).take(0, 25)
    assert samples[:10].tolist() == keyed_rng(3, "t2i", 0, "order").permutation(10).tolist()
    assert sorted(samples[10:20]) == list(range(10))
    assert epochs.tolist() == [0] * 10 + [1] * 10 + [2] * 5


@pytest.mark.parametrize("window", [1, 2, 4, 6, 100])
def test_windows_of_shards_hold_every_sample_once_an_epoch(window):
    order = EpochOrder(0, "t2i", COUNT, RUNS, window)
    samples, epochs = order.take(0, 3 * COUNT)
    for epoch in range(3):
        assert sorted(samples[epochs == epoch]) == list(range(COUNT))
    assert samples[:COUNT].tolist() != samples[COUNT : 2 * COUNT].tolist()


def test_samples_of_a_window_come_from_its_shards_alone():
    samples, _ = EpochOrder(0, "t2i", COUNT, RUNS, 2).take(0, COUNT)
    shards = np.searchsorted(RUNS, samples, side="right") - 1
    order = list(dict.fromkeys(shards.tolist()))
    for window in range(0, 6, 2):
        places = np.flatnonzero(np.isin(shards, order[window : window + 2]))
        assert np.array_equal(places, np.arange(places[0], places[-1] + 1))


@pytest.mark.parametrize("runs", [None, RUNS])
def test_any_position_is_reached_at_once(runs):
    order = EpochOrder(1, "edit", COUNT, runs, 2)
    samples, epochs = order.take(0, 200)
    other = pickle.loads(pickle.dumps(order))
    for position in (150, 3, 79, 80, 39):
        again = other.take(position, 7)
        assert np.array_equal(again[0], samples[position : position + 7])
        assert np.array_equal(again[1], epochs[position : position + 7])


def test_a_hundred_million_samples_start_at_once():
    order = EpochOrder(0, "t2i", 10**8, np.arange(0, 10**8, 1000))
    samples, _ = order.take(10**12 + 17, 64)
    assert len(set(samples.tolist())) == 64
    assert samples.max() < 10**8
