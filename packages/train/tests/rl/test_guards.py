"""The alarm goes off for hacking and for nothing else; edits that do nothing or too much are counted."""

import numpy as np
import pytest
import torch

from unipic2_data.shapes.render import render_batch
from unipic2_data.shapes.scene import Item, Scene
from unipic2_train.rl.guards import Guards, GuardsConfig, edit_extent, trend

CIRCLE, SQUARE = Item("circle", "red", 0, 8, 8, 6), Item("square", "blue", 3, 24, 24, 6)
SOURCE = Scene("white", (CIRCLE, SQUARE))
TARGET = Scene("white", (Item("circle", "green", 0, 8, 8, 6), SQUARE))


def alarms(rewards, judged, **config):
    guards = Guards(GuardsConfig(window=20, **config))
    return [guards._alarm("t2i", *pair) for pair in zip(rewards, judged, strict=True)]


def test_rising_reward_and_falling_judge_set_it_off():
    rng = np.random.default_rng(0)
    steps = np.arange(40) / 40
    up, down = steps + rng.normal(0, 0.05, 40), -steps + rng.normal(0, 0.05, 40)
    assert any(alarms(up, down))
    assert not any(alarms(up, up))
    assert not any(alarms(down, down))
    assert not any(alarms(up, rng.normal(0, 0.05, 40)))


def test_noise_does_not():
    rng = np.random.default_rng(1)
    assert not any(any(alarms(rng.normal(size=60), rng.normal(size=60))) for _ in range(20))


def test_a_short_history_says_nothing_and_a_restored_one_goes_on():
    up, down = np.arange(20.0), -np.arange(20.0)
    assert alarms(up, down) == [False] * 19 + [True]
    one = Guards(GuardsConfig(window=20))
    for pair in zip(up[:12], down[:12], strict=True):
        one._alarm("edit", *pair)
    two = Guards(GuardsConfig(window=20))
    two.load_state_dict(one.state_dict())
    assert [two._alarm("edit", *pair) for pair in zip(up[12:], down[12:], strict=True)] == [False] * 7 + [True]
    assert not two._alarm("edit", float("nan"), 0.0)


def test_the_trend_is_a_t_statistic():
    y = np.random.default_rng(2).normal(size=15) + 0.1 * np.arange(15)
    x = np.stack((np.ones(15), np.arange(15.0)), 1)
    coefficients, (residual,), *_ = np.linalg.lstsq(x, y, rcond=None)
    error = np.sqrt(residual / 13 * np.linalg.inv(x.T @ x)[1, 1])
    assert trend(y) == pytest.approx(coefficients[1] / error)
    assert trend([1.0] * 5) == 0
    assert trend(range(5)) > 1000


def test_edits_that_do_nothing_or_too_much():
    elsewhere = Scene("white", (TARGET.items[0], Item("cross", "yellow", 3, 24, 24, 6)))
    made = torch.from_numpy(render_batch([TARGET, SOURCE, elsewhere], 32))
    source, target = (torch.from_numpy(render_batch([scene] * 3, 32)) for scene in (SOURCE, TARGET))
    inside, beside = edit_extent(made, source, target)
    assert inside.tolist() == pytest.approx([1, 0, 1])
    assert beside[:2].tolist() == [0, 0]
    assert beside[2] > 0.1
