import math

import pytest
import torch
from torch.nn.functional import logsigmoid

from unipic2_train.objectives.edit_reward import EditRewardObjective, edit_reward_loss, ordered_pairs

NAN = math.nan


def test_regression_alone_is_huber():
    predicted, scores = torch.tensor([[0.0, 3.0]]), torch.tensor([[0.5, 0.0]])
    loss, per_row = edit_reward_loss(predicted, scores, EditRewardObjective(huber=1.0, ranking=0.0))
    torch.testing.assert_close(per_row, torch.tensor([0.125, 2.5]))
    assert loss == per_row.mean()


def test_ranking_is_bradley_terry_over_the_untied_pairs_of_a_group():
    predicted = torch.tensor([[0.3, -0.1, 0.8], [1.0, 2.0, 3.0]])
    scores = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    with_ranking = edit_reward_loss(predicted, scores, EditRewardObjective(ranking=0.5, sharpness=2.0))
    without = edit_reward_loss(predicted, scores, EditRewardObjective(ranking=0.0))
    pairs = -(logsigmoid(torch.tensor(2.0 * 0.4)) + logsigmoid(torch.tensor(2.0 * -0.5))) / 2
    torch.testing.assert_close(with_ranking.loss - without.loss, 0.5 * pairs / 2)  # two groups, one without an order


def test_what_has_no_score_gives_no_gradient_but_counts():
    predicted = torch.zeros(1, 4, requires_grad=True)
    loss = edit_reward_loss(predicted, torch.tensor([[1.0, NAN, -1.0, NAN]]), EditRewardObjective()).loss
    loss.backward()
    assert loss.isfinite()
    assert predicted.grad[0, [1, 3]].tolist() == [0, 0]
    assert predicted.grad[0, 0] < 0 < predicted.grad[0, 2]
    half = edit_reward_loss(predicted[:, :2], torch.tensor([[1.0, NAN]]), EditRewardObjective(ranking=0.0)).loss
    torch.testing.assert_close(half.detach(), torch.tensor(0.25))


@pytest.mark.parametrize(("tie", "expected"), [(0.0, 3), (0.3, 2), (2.0, 0)])
def test_ties_have_no_order(tie, expected):
    scores = torch.tensor([[0.0, 0.2, 1.0, NAN]])
    assert int(ordered_pairs(scores, tie).sum()) == expected


def test_parts_of_a_batch_average_to_the_whole():
    generator = torch.Generator().manual_seed(0)
    predicted, scores = torch.randn(6, 4, generator=generator), torch.randn(6, 4, generator=generator)
    whole = edit_reward_loss(predicted, scores, EditRewardObjective())
    pairs = zip(predicted.split(2), scores.split(2), strict=True)
    parts = torch.stack([edit_reward_loss(*pair, EditRewardObjective()).loss for pair in pairs])
    torch.testing.assert_close(whole.loss, parts.mean())


def test_ranges():
    with pytest.raises(ValueError, match="huber and sharpness must be above 0"):
        EditRewardObjective(huber=0.0)
