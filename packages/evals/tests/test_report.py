"""Intervals against known values and by simulation; tables by their text."""

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
    markdown_table,
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
