"""Intervals against known values and by simulation; tables by their text."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unipic2_evals.geneval import summary
from unipic2_evals.report import (
    Interval,
    bootstrap_interval,
    format_interval,
    geneval_intervals,
    grouped_intervals,
    hierarchical_interval,
    markdown_table,
    student_t_quantile,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)],  # the last: Newcombe 1998, table I
)
def test_wilson_against_published_values(successes, total, low, high):
    interval = wilson_interval(successes, total)
    assert interval.low == pytest.approx(low, abs=5e-5)
    assert interval.high == pytest.approx(high, abs=5e-5)
    assert interval.mean == successes / total


@given(st.integers(1, 500).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_wilson_holds_the_mean_and_mirrors(counts):
    successes, total = counts
    interval, mirrored = wilson_interval(successes, total), wilson_interval(total - successes, total)
    assert 0 <= interval.low <= interval.mean <= interval.high <= 1
    assert interval.low == pytest.approx(1 - mirrored.high, abs=1e-12)


def test_bootstrap_covers_the_truth():
    # 40 prompts with 4 images each that mostly agree: about 95 of 100 intervals must hold the true mean.
    hits = 0
    for trial in range(100):
        rng = np.random.default_rng(trial)
        difficulty = rng.beta(1, 1, size=40)  # mean 0.5
        values = (rng.random((40, 4)) < difficulty[:, None]).ravel()
        interval = bootstrap_interval(values.tolist(), np.repeat(np.arange(40), 4).tolist(), resamples=400)
        hits += interval.low <= 0.5 <= interval.high
    assert 88 <= hits <= 100


def test_clusters_widen_the_interval():
    values = [1.0] * 40 + [0.0] * 40
    alone = bootstrap_interval(values, list(range(80)))
    clustered = bootstrap_interval(values, [index // 4 for index in range(80)])
    assert clustered.high - clustered.low > 1.6 * (alone.high - alone.low)  # 2 in theory: sqrt(4)
    assert clustered.mean == alone.mean == 0.5


def test_strata_count_alike():
    # 90 images of one tag all right, 10 of the other all wrong: the mean of the tags is one half, and is certain.
    values, tags = [1.0] * 90 + [0.0] * 10, ["a"] * 90 + ["b"] * 10
    assert bootstrap_interval(values, list(range(100)), strata=tags) == Interval(0.5, 0.5, 0.5, 100)


def test_same_inputs_give_the_same_interval():
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    assert bootstrap_interval(values, list("abcde")) == bootstrap_interval(values, list("abcde"))
    assert bootstrap_interval(values, list("abcde"), seed=1).mean == bootstrap_interval(values, list("abcde")).mean


def test_grouped_intervals_choose_by_clusters():
    correct, groups = [True, False, True, True], ["x", "x", "y", "y"]
    assert grouped_intervals(correct, groups)["x"] == wilson_interval(1, 2)
    assert grouped_intervals(correct, groups, ["p", "q", "p", "q"])["x"] == wilson_interval(1, 2)
    assert grouped_intervals(correct, groups, ["p", "p", "q", "q"])["x"] == bootstrap_interval([1, 0], ["p", "p"])


def test_geneval_intervals_agree_with_the_summary():
    rng = np.random.default_rng(0)
    records = [
        {"tag": tag, "metadata": f"prompt {prompt}", "correct": bool(rng.random() < 0.6)}
        for tag in ("colors", "counting")
        for prompt in range(12)
        for _ in range(4)
    ]
    scores, intervals = summary(records), geneval_intervals(records)
    assert {tag: intervals[tag].mean for tag in scores["tasks"]} == pytest.approx(scores["tasks"])
    assert intervals["overall"].mean == pytest.approx(scores["overall"])
    assert all(interval.low < interval.mean < interval.high for interval in intervals.values())


@pytest.mark.parametrize(
    ("values", "clusters", "strata"), [([], [], None), ([1.0], ["a", "b"], None), ([1.0, 0.0], ["a", "a"], ["x", "y"])]
)
def test_unusable_samples_are_refused(values, clusters, strata):
    with pytest.raises(ValueError, match=r"expected as many clusters|lies in two strata"):
        bootstrap_interval(values, clusters, strata)


@pytest.mark.parametrize(("successes", "total"), [(1, 0), (3, 2), (-1, 2)])
def test_unusable_counts_are_refused(successes, total):
    with pytest.raises(ValueError, match="expected 0 <= successes <= total"):
        wilson_interval(successes, total)


def test_unusable_confidence_is_refused():
    with pytest.raises(ValueError, match="confidence"):
        wilson_interval(1, 2, confidence=95)


def test_table():
    table = markdown_table(["category", "score"], [["colors", Interval(0.5, 0.25, 0.75, 8)], ["a|b", 3]])
    assert table == (
        "| category |                score |\n"
        "| -------- | -------------------: |\n"
        "| colors   | 0.500 [0.250, 0.750] |\n"
        "| a\\|b     |                    3 |\n"
    )


def test_ragged_table_is_refused():
    with pytest.raises(ValueError, match="expected 2 cells, got 1"):
        markdown_table(["a", "b"], [["x"]])


def test_digits_of_an_interval():
    assert format_interval(Interval(0.12345, 0.1, 0.2, 5), digits=2) == "0.12 [0.10, 0.20]"


def half_width(interval):
    return (interval.high - interval.low) / 2


def test_student_quantiles_are_those_of_the_tables():
    tables = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262, 10: 2.228, 30: 2.042}
    assert {degrees: round(student_t_quantile(0.975, degrees), 3) for degrees in tables} == tables
    with pytest.raises(ValueError, match=r"in \(0.5, 1\) and 1 or more degrees, got 0.975 and 0"):
        student_t_quantile(0.975, 0)


def test_differences_between_seeds_alone_give_students_interval():
    """Every prompt alike: mean +- t s / sqrt(S)."""
    seeds = np.random.default_rng(1).normal(size=8)
    interval = hierarchical_interval(np.repeat(seeds[:, None], 50, axis=1), resamples=20_000)
    expected = 2.365 * seeds.std(ddof=1) / math.sqrt(8)
    assert interval.mean == pytest.approx(seeds.mean())
    assert half_width(interval) == pytest.approx(expected, rel=0.04)


def test_differences_between_prompts_alone_give_the_bootstrap_over_prompts():
    """Every seed alike: mean +- 1.96 s / sqrt(P)."""
    prompts = np.random.default_rng(2).normal(size=200)
    interval = hierarchical_interval(np.repeat(prompts[None], 5, axis=0), resamples=20_000)
    assert half_width(interval) == pytest.approx(1.96 * prompts.std() / math.sqrt(200), rel=0.03)
    one_seed = hierarchical_interval(prompts[None], resamples=20_000)
    assert half_width(one_seed) == pytest.approx(half_width(interval), rel=0.03)


def test_variances_of_seeds_and_prompts_add_up():
    rng = np.random.default_rng(3)
    seeds, prompts = rng.normal(size=(10, 1)), 3 * rng.normal(size=(1, 100))
    interval = hierarchical_interval(seeds + prompts, resamples=20_000)
    of_seeds = 2.262 * seeds.std(ddof=1) / math.sqrt(10)
    of_prompts = 1.96 * prompts.std() / math.sqrt(100)
    assert half_width(interval) == pytest.approx(math.hypot(of_seeds, of_prompts), rel=0.04)


def test_pairs_take_out_what_both_arms_share():
    rng = np.random.default_rng(4)
    shared = rng.normal(size=(5, 1)) + rng.normal(size=(1, 100))
    first, second = shared, shared + 0.1
    paired = hierarchical_interval(second - first)
    assert paired.low == pytest.approx(0.1)
    assert paired.high == pytest.approx(0.1)
    assert half_width(hierarchical_interval(first)) > 0.3


def test_strata_weigh_alike_whatever_their_size():
    values = np.array([[1.0] * 9 + [0.0]] * 5)
    assert hierarchical_interval(values, strata=["a"] * 9 + ["b"])[:3] == pytest.approx((0.5, 0.5, 0.5))
    assert hierarchical_interval(values).mean == pytest.approx(0.9)


def test_five_seeds_cover_the_truth_as_often_as_promised():
    """250 experiments of 5 seeds and 40 prompts, with variance between seeds, prompts and single pictures."""
    rng = np.random.default_rng(5)
    hits = 0
    for number in range(250):
        values = 0.05 * rng.normal(size=(5, 1)) + 0.2 * rng.normal(size=(1, 40)) + 0.3 * rng.normal(size=(5, 40))
        interval = hierarchical_interval(values, resamples=300, seed=number)
        hits += interval.low <= 0 <= interval.high
    assert 0.93 <= hits / 250 <= 1.0


@pytest.mark.parametrize(
    ("values", "strata"),
    [(np.zeros((0, 3)), None), (np.zeros(3), None), ([[1.0, math.nan]], None), ([[1.0, 2.0]], "a")],
)
def test_half_a_table_has_no_interval(values, strata):
    with pytest.raises(ValueError, match="expected finite values of shape"):
        hierarchical_interval(values, strata)
