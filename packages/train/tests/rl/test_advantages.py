"""Advantages against plain loops, and what failed or useless scores do."""

import numpy as np
import pytest
import torch

from unipic2_train.rl.advantages import EPSILON, advantages
from unipic2_train.rl.config import AdvantageConfig

NAN = float("nan")


def of(rewards, groups, weights=(1.0,), **config):
    rewards = torch.as_tensor(rewards, dtype=torch.float64)
    rewards = rewards[:, None] if rewards.ndim == 1 else rewards
    return advantages(rewards, torch.tensor(weights), torch.tensor(groups), AdvantageConfig(**config))


@pytest.mark.parametrize("std", ["group", "global"])
def test_a_plain_loop_agrees(std):
    rng = np.random.default_rng(0)
    rewards, groups = rng.normal(size=24), np.arange(24) // 6
    found = of(rewards, groups, std=std)
    for index, (reward, group) in enumerate(zip(rewards, groups, strict=True)):
        own = rewards[groups == group]
        spread = own.std() if std == "group" else rewards.std()
        assert found.values[index].item() == pytest.approx((reward - own.mean()) / (spread + EPSILON), abs=1e-12)
    assert found.kept.all()


def test_groups_are_numbers_of_rows_wherever_their_images_are():
    """Two rows with the same prompt are two groups, and a group's images need not be neighbours."""
    rewards = torch.tensor([0.0, 10.0, 1.0, 11.0])
    found = of(rewards, [0, 1, 0, 1])
    assert torch.allclose(found.values, torch.tensor([-1.0, -1.0, 1.0, 1.0]).double(), atol=1e-3)


def test_a_failed_score_is_left_out_and_never_a_zero():
    with_failure = of([1.0, 3.0, NAN, 5.0, 7.0], [0, 0, 0, 1, 1])
    without = of([1.0, 3.0, 5.0, 7.0], [0, 0, 1, 1])
    assert with_failure.kept.tolist() == [True, True, False, True, True]
    assert torch.equal(with_failure.values[[0, 1, 3, 4]], without.values)
    assert with_failure.values[2] == 0


def test_one_failed_reward_of_several_masks_the_image():
    found = of([[1.0, 2.0], [0.0, NAN], [2.0, 5.0]], [0, 0, 0], weights=(0.5, 0.5))
    assert found.kept.tolist() == [True, False, True]


@pytest.mark.parametrize("combine", ["sum", "gdpo"])
def test_a_group_that_scores_alike_is_dropped(combine):
    third = 1 / 3  # whose mean is not itself in floating point
    found = of([third, third, third, 0.0, 1.0, NAN], [0, 0, 0, 1, 1, 2], combine=combine)
    assert found.kept.tolist() == [False] * 3 + [True] * 2 + [False]
    assert not found.values[~found.kept].any()
    assert of([NAN, NAN], [0, 0], combine=combine).kept.tolist() == [False, False]


def test_gdpo_does_not_let_a_scale_decide():
    rewards = np.random.default_rng(1).normal(size=(8, 2))
    loud = rewards * [1000.0, 1.0]
    same = {"groups": [0] * 4 + [1] * 4, "weights": (1.0, 1.0)}
    gdpo, summed = of(rewards, combine="gdpo", **same).values, of(rewards, **same).values
    torch.testing.assert_close(of(loud, combine="gdpo", **same).values, gdpo, rtol=0, atol=1e-3)
    assert (of(loud, **same).values - summed).abs().max() > 0.3
    assert gdpo.mean().item() == pytest.approx(0, abs=1e-6)
    assert gdpo.std(correction=0).item() == pytest.approx(1, abs=1e-3)


def test_advantages_are_clipped():
    rewards = [0.0] * 40 + [1.0]
    assert of(rewards, [0] * 41).values.max() == 5
    assert of(rewards, [0] * 41, clip=2.0).values.max() == 2
