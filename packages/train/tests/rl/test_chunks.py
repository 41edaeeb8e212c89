"""Scoring while sampling goes on: nothing but the time may change."""

import shutil
import threading

import pytest
import torch

from unipic2_train.kontext import Kontext, KontextConfig
from unipic2_train.rewards.base import Reward, WeightedReward
from unipic2_train.rewards.brightness import BrightnessReward
from unipic2_train.rl.chunks import joined, parts_of
from unipic2_train.rl.config import RLConfig, RolloutConfig
from unipic2_train.rl.guards import GuardsConfig
from unipic2_train.rl.iteration import Reinforcement
from unipic2_train.rl.layout import Layout
from unipic2_train.rl.rollout import sample
from unipic2_train.system import AdapterConfig
from unipic2_train.training_checkpoint import trainable_parameters

CONFIG = RLConfig(rollout=RolloutConfig(steps=3, guidance=1.0, micro_batch=4), updates=2)


@pytest.fixture
def make(foundation, transformer, tmp_path):
    """Return a function that loads the same model again."""
    folder = shutil.copytree(foundation, tmp_path / "model")
    transformer.save_pretrained(folder / "transformer")

    def build():
        torch.manual_seed(0)
        return Kontext(KontextConfig(str(folder), adapter=AdapterConfig(rank=2, alpha=4)), torch.device("cpu"))

    return build


class Elsewhere(BrightnessReward):
    """Brightness that comes from far away: the first call ends only when a later part has been handed over."""

    waits = True

    def __init__(self, parts):
        self.parts, self.calls, self.all_there = parts, [], threading.Event()
        self.in_time = None

    def __call__(self, request):
        self.calls.append(len(request))
        if len(self.calls) == self.parts:
            self.all_there.set()
        self.in_time = self.all_there.wait(120)
        return super().__call__(request)


class WholeGroups(Reward):
    """Compares the pictures of a group."""

    waits = whole_groups = True

    def __init__(self):
        self.seen = []

    def __call__(self, request):
        self.seen.append(request.groups)
        return BrightnessReward()(request)


def run(kontext, batch, rewards, kind="edit", layout=None, **guards):
    reinforcement = Reinforcement(kontext, CONFIG, rewards, GuardsConfig(**guards))
    trained = trainable_parameters(kontext.transformer)
    optimizer = torch.optim.SGD(trained.values(), 1e-2)
    metrics = reinforcement.step(batch(kind, 2), layout or Layout(8, 4), optimizer, 0)
    return metrics, {name: value.detach().clone() for name, value in trained.items()}


@pytest.mark.parametrize("kind", ["t2i", "edit"])
def test_a_remote_reward_is_asked_while_the_next_part_is_sampled(make, batch, kind):
    remote = Elsewhere(parts=2)
    found, there = run(make(), batch, {"b": WeightedReward(remote)}, kind, held_out=BrightnessReward())
    assert remote.in_time, "the first part was waited for before the second was sampled"
    assert remote.calls == [4, 4]
    expected, here = run(make(), batch, {"b": WeightedReward(BrightnessReward())}, kind, held_out=BrightnessReward())
    assert found["rl/first_update_abs_log_ratio"] < 1e-6
    want = {name: value for name, value in expected.items() if not name.startswith("speed/")}
    assert {name: found[name] for name in want} == pytest.approx(want, abs=1e-5, nan_ok=True)
    for name, value in here.items():
        torch.testing.assert_close(there[name], value, rtol=0, atol=1e-6)


def test_the_held_out_judge_may_be_remote_too(make, batch):
    remote = Elsewhere(parts=2)
    metrics, _ = run(make(), batch, {"b": WeightedReward(BrightnessReward())}, held_out=remote)
    assert remote.in_time
    assert metrics["guard/held_out_edit"] == pytest.approx(metrics["rl/reward_edit"])


def test_groups_that_are_compared_come_whole(make, batch):
    whole = WholeGroups()
    run(make(), batch, {"w": WeightedReward(whole)}, layout=Layout(8, 4))
    assert sorted(map(len, whole.seen)) == [4, 4]
    assert all(len(set(groups)) == 1 for groups in whole.seen)
    whole.seen.clear()
    with pytest.raises(ValueError, match="w compares the images of a group, but each of 2 processes has 6 images"):
        run(make(), batch, {"w": WeightedReward(whole)}, layout=Layout(12, 4, 2, 0))


def test_what_a_remote_reward_raises_ends_the_run(make, batch):
    class Broken(BrightnessReward):
        waits = True

        def __call__(self, request):
            msg = "another model is another reward"
            raise ValueError(msg)

    with pytest.raises(ValueError, match="another model"):
        run(make(), batch, {"b": WeightedReward(Broken())})


@pytest.mark.parametrize(
    ("layout", "whole_groups", "count"),
    [
        (Layout(8, 4), False, 2),
        (Layout(24, 6), False, 6),
        (Layout(24, 6), True, 2),
        (Layout(24, 6, 2, 1), True, 1),
        (Layout(24, 6, 2, 1), False, 3),
        (Layout(6, 3), False, 1),
    ],
)
def test_parts_are_a_process_s_images_in_order(layout, whole_groups, count):
    parts = parts_of(layout, 4, whole_groups=whole_groups)
    assert len(parts) == count
    numbers = [number for part in parts for number in range(layout.images)[part.own]]
    assert numbers == list(range(layout.images)[layout.own])


def test_joined_parts_are_the_whole(make, batch):
    kontext, rows, layout = make(), batch("edit", 2), Layout(8, 4)
    whole = sample(kontext.transformer, kontext.frozen, rows, layout, CONFIG, 0)
    done = [
        sample(kontext.transformer, kontext.frozen, rows, part, CONFIG, 0)
        for part in parts_of(layout, 4, whole_groups=False)
    ]
    found = joined(done)
    for name in ("index", "path", "log_probs", "means", "latents", "speed"):
        torch.testing.assert_close(getattr(found, name), getattr(whole, name), rtol=0, atol=1e-5)
    assert found.window == whole.window
    torch.testing.assert_close(found.at(1).conditioning.prompt_embeds, whole.at(1).conditioning.prompt_embeds)
    torch.testing.assert_close(found.state.references, whole.state.references, rtol=0, atol=1e-5)
    assert torch.equal(found.state.sigmas, whole.state.sigmas)
