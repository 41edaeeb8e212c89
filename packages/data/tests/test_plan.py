import pickle
from collections import Counter

import numpy as np
import pytest

from unipic2_data.errors import DataError
from unipic2_data.plan import Plan, rank_rows

COUNTS = {"t2i": 37, "edit": 23}


def test_every_sample_once_an_epoch_although_batches_straddle():
    plan = Plan(COUNTS, seed=1, global_batch=8, tasks={"t2i": 1})
    steps = [plan.step(step) for step in range(37)]  # 8 epochs exactly
    indices = np.concatenate([step.indices for step in steps])
    visits = np.concatenate([step.visits for step in steps])
    assert all(len(step.indices) == 8 for step in steps)
    for epoch in range(8):
        assert sorted(indices[visits == epoch]) == list(range(37))
    assert indices[:37].tolist() != indices[37:74].tolist()


def test_a_batch_larger_than_the_data_spans_epochs():
    step = Plan({"edit": 3}, seed=0, global_batch=8).step(0)
    assert Counter(step.visits.tolist()) == {0: 3, 1: 3, 2: 2}
    assert sorted(step.indices[:3]) == sorted(step.indices[3:6]) == [0, 1, 2]


def test_pure_function_of_the_step():
    plan = Plan(COUNTS, seed=5, global_batch=6)
    forward = [plan.step(step) for step in range(40)]
    other = pickle.loads(pickle.dumps(plan))
    for step in (39, 3, 17):
        again = other.step(step)
        assert again.kind == forward[step].kind
        assert np.array_equal(again.indices, forward[step].indices)
        assert np.array_equal(again.visits, forward[step].visits)


def test_seed_changes_the_order():
    first, second = (Plan(COUNTS, seed=seed, global_batch=16).step(0).indices.tolist() for seed in (0, 1))
    assert first != second


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        (None, ["t2i", "edit"] * 3),
        ({"t2i": 1, "edit": 1}, ["t2i", "edit"] * 3),
        ({"edit": 0.5, "t2i": 0.5}, ["t2i", "edit"] * 3),
        ({"t2i": 1}, ["t2i"] * 6),
        ({"t2i": 2, "edit": 1}, ["t2i", "edit", "t2i"] * 2),
    ],
)
def test_kinds_take_turns(tasks, expected):
    plan = Plan(COUNTS, seed=0, global_batch=4, tasks=tasks)
    assert [plan.kind(step) for step in range(6)] == expected


def test_ratio_holds_over_any_long_stretch():
    plan = Plan(COUNTS, seed=0, global_batch=4, tasks={"t2i": 0.7, "edit": 0.3})
    for start in (0, 13, 1000):
        counts = Counter(plan.kind(step) for step in range(start, start + 100))
        assert counts["t2i"] == 70


@pytest.mark.parametrize(("world_size", "accumulate", "batch_size"), [(1, 1, 12), (2, 1, 6), (2, 3, 2), (1, 4, 3)])
def test_layouts_share_one_sequence(world_size, accumulate, batch_size):
    taken = [
        row
        for micro in range(accumulate)
        for rank in range(world_size)
        for row in range(12)[rank_rows(batch_size, micro, rank, world_size)]
    ]
    assert taken == list(range(12))


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({"qa": 1}, "the data has t2i"),
        ({"t2i": 0}, "positive"),
        ({"t2i": float("nan")}, "positive"),
        ({}, "names no kind"),
        ({"t2i": 1, "edit": 1e-9}, "too fine"),
    ],
)
def test_bad_ratios(tasks, message):
    with pytest.raises(DataError, match=message):
        Plan(COUNTS, seed=0, global_batch=4, tasks=tasks)


def test_empty_data_and_batch():
    with pytest.raises(DataError, match="every kind is empty"):
        Plan({"t2i": 0}, seed=0, global_batch=4)
    with pytest.raises(DataError, match="global batch"):
        Plan(COUNTS, seed=0, global_batch=0)
