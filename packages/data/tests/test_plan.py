import pickle
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from unipic2_data.errors import DataError
from unipic2_data.plan import Cell, Plan, interleave, rank_rows

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


BUCKETS = [Cell("t2i", 50, (8, 8)), Cell("t2i", 21, (8, 16)), Cell("t2i", 3, (16, 8)), Cell("edit", 30, (8, 8))]


def test_a_step_has_one_size_and_every_sample_comes_once_an_epoch():
    plan = Plan(BUCKETS, seed=2, global_batch=8, tasks={"t2i": 1})
    steps = [plan.step(number) for number in range(74)]  # 8 epochs exactly
    seen = Counter()
    for step in steps:
        assert len(step.indices) == 8
        assert {plan.cells[cell].size for cell in step.cells} == {step.size}
        seen.update(zip(step.cells.tolist(), step.indices.tolist(), step.visits.tolist(), strict=True))
    assert seen == Counter(
        (cell, index, visit) for cell in range(3) for index in range(BUCKETS[cell].count) for visit in range(8)
    )


def test_sizes_are_balanced_over_every_epoch_and_what_is_left_moves_on():
    plan = Plan(BUCKETS, seed=2, global_batch=8, tasks={"t2i": 1})
    assert plan.left_over(0) == {("t2i", (8, 8)): 2, ("t2i", (8, 16)): 5, ("t2i", (16, 8)): 3}
    assert set(plan.left_over(7).values()) == {0}
    sizes = [plan.step(number).size for number in range(6 + 2 + 0 + 6 + 3 + 0)]
    assert Counter(sizes[:8]) == {(8, 8): 6, (8, 16): 2}
    assert Counter(sizes[8:17]) == {(8, 8): 6, (8, 16): 3}
    assert sizes[:8] != sorted(sizes[:8])


def test_any_step_of_a_plan_with_sizes_and_sources_is_reached_at_once():
    cells = [*BUCKETS, Cell("t2i", 9, (8, 8), source=1, quota=40), Cell("t2i", 7, (8, 16), source=1, quota=10)]
    plan = Plan(cells, seed=5, global_batch=6)
    forward = [plan.step(number) for number in range(150)]
    other = pickle.loads(pickle.dumps(plan))
    for number in (149, 3, 77, 0):
        again = other.step(number)
        assert (again.kind, again.size) == (forward[number].kind, forward[number].size)
        for name in ("cells", "indices", "visits"):
            assert np.array_equal(getattr(again, name), getattr(forward[number], name))
    place = {}
    for step in forward:  # within a cell, epochs follow each other
        for cell, visit in zip(step.cells.tolist(), step.visits.tolist(), strict=True):
            assert visit >= place.get(cell, 0)
            place[cell] = visit


def test_sources_have_their_share_of_every_stretch():
    cells = [Cell("t2i", 10, source=0, quota=25), Cell("t2i", 1000, source=1, quota=75)]
    plan = Plan(cells, seed=0, global_batch=16)
    for start in (0, 100, 12345):
        rows = np.concatenate([plan.step(number).cells for number in range(start, start + 10)])
        assert Counter(rows.tolist()) == {0: 40, 1: 120}


@pytest.mark.parametrize("shares", [[1, 1], [3, 1], [7, 2, 100], [1, 10, 3]])
def test_rows_are_interleaved_evenly_from_any_place(shares):
    expected = sorted(
        (Fraction(2 * k + 1, share), member, k) for member, share in enumerate(shares) for k in range(800)
    )
    for start in (0, 1, 5, 333, 700):
        members, counters = interleave(shares, start, 90)
        assert members.tolist() == [member for _, member, _ in expected[start : start + 90]]
        assert counters.tolist() == [k for *_, k in expected[start : start + 90]]


def test_a_stream_has_its_share_of_rows():
    plan = Plan([Cell("t2i", None, quota=100), Cell("t2i", 50, source=1, quota=100)], seed=0, global_batch=8)
    step = plan.step(3)
    assert Counter(step.cells.tolist()) == {0: 4, 1: 4}
    assert step.indices[step.cells == 0].tolist() == [12, 13, 14, 15]
