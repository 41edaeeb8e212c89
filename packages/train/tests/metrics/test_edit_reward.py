import math

import pytest
import torch

from unipic2_train.metrics.edit_reward import RankingScore, spearman


def test_accuracy_counts_untied_pairs_within_groups_and_half_of_equal_predictions():
    score = RankingScore()
    score.update(torch.tensor([[0.1, 0.2, 0.3]]), torch.tensor([[0.0, 1.0, 0.5]]))  # one of three is wrong
    score.update(torch.tensor([[5.0, 5.0, 9.0]]), torch.tensor([[0.0, 1.0, math.nan]]))  # equal: half
    score.update(torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[2.0, 2.0, 2.0]]))  # no order
    assert score.compute()["accuracy"] == pytest.approx((2 + 0.5) / 4)
    row = score.row()
    assert (row["groups"], row["edits"], row["pairs"]) == (3, 8, 4)
    assert row["low"] <= row["accuracy"] <= row["high"]
    score.predicted, score.scores = torch.cat(score.predicted), torch.cat(score.scores)  # as after synchronising
    assert RankingScore.row(score) == row
    assert RankingScore.compute(score)["accuracy"] == pytest.approx(2.5 / 4)


def test_the_interval_draws_groups_not_pairs():
    torch.manual_seed(0)
    right = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    scores = RankingScore(), RankingScore()
    for number in range(20):
        score = right if number % 2 else right.flip(1)
        scores[0].update(right, score)  # all pairs of a group right, or all wrong
        scores[1].update(torch.tensor([[0.0, 3.0, 0.5, 2.0]]) if number % 2 else right, right)
    assert scores[0].accuracy().high - scores[0].accuracy().low > 0.3


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 99], 1),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1),
        ([1, 2, 2, 3], [1, 2, 2, 3], 1),
        ([1, 1, 1], [1, 2, 3], 0),
        ([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], 0.8),
        ([1, 2, 2, 4], [1, 3, 2, 4], 0.9486833),
    ],
)
def test_spearman(one, other, expected):
    assert float(spearman(torch.tensor(one), torch.tensor(other))) == pytest.approx(expected)


def test_nothing_to_compare():
    assert RankingScore().compute() == {}
    score = RankingScore()
    score.update(torch.zeros(1, 2), torch.full((1, 2), math.nan))
    assert score.compute() == {}
    assert score.row() == {"groups": 1, "edits": 0, "pairs": 0}
    score = RankingScore(tie=1.0)
    score.update(torch.zeros(1, 2), torch.tensor([[0.0, 0.5]]))
    assert set(score.compute()) == {"spearman", "error"}
