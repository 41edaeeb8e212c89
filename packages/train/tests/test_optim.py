import math

import pytest
import torch
from torch import nn

from unipic2_train.optim import MuonConfig, OptimizerConfig, configure, learning_rate_factor


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.1),
        (4, 0.5),
        (9, 1.0),
        (10, 1.0),
        (35, 0.5 * (1 + math.cos(math.pi / 4))),
        (60, 0.5),
        (110, 0.0),
        (500, 0.0),
    ],
)
def test_warm_up_then_half_a_cosine(step, expected):
    config = OptimizerConfig(warmup_steps=10)
    assert learning_rate_factor(step, config, max_steps=110) == pytest.approx(expected, abs=1e-12)


def test_constant_after_the_warm_up():
    config = OptimizerConfig(warmup_steps=4, schedule="constant")
    assert [learning_rate_factor(step, config, -1) for step in (0, 3, 4, 10_000)] == [0.25, 1.0, 1.0, 1.0]


def test_final_fraction():
    config = OptimizerConfig(warmup_steps=0, final_fraction=0.1)
    assert learning_rate_factor(100, config, 100) == pytest.approx(0.1)
    assert learning_rate_factor(50, config, 100) == pytest.approx(0.55)


def test_the_optimizer_follows_the_schedule():
    config = OptimizerConfig(learning_rate=2.0, warmup_steps=2)
    made = configure(nn.Linear(2, 2), config, max_steps=6)
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(6):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([2 * learning_rate_factor(step, config, 6) for step in range(6)])
    assert made["lr_scheduler"]["interval"] == "step"


def test_matrices_decay_and_vectors_do_not():
    module = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    config = OptimizerConfig(learning_rate=0.1, weight_decay=0.5, warmup_steps=0, schedule="constant")
    optimizer = configure(module, config, 10)["optimizer"]
    before = {name: value.clone() for name, value in module.named_parameters()}
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, value in module.named_parameters():
        expected = before[name] * (1 - 0.1 * 0.5) if name == "0.weight" else before[name]
        assert torch.allclose(value, expected), name


def test_frozen_parameters_are_left_out():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[0].requires_grad_(False)
    optimizer = configure(module, OptimizerConfig(), 10)["optimizer"]
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {
        id(p) for p in module[1].parameters()
    }


def test_cosine_needs_an_end():
    with pytest.raises(ValueError, match="max_steps"):
        configure(nn.Linear(2, 2), OptimizerConfig(), -1)


def test_nothing_to_train():
    with pytest.raises(ValueError, match="no parameter is trainable"):
        configure(nn.Linear(2, 2).requires_grad_(False), OptimizerConfig(), 10)


def test_a_resumed_schedule_follows_the_recipe_of_now():
    config = OptimizerConfig(learning_rate=2.0, warmup_steps=2)
    before = configure(nn.Linear(2, 2), config, max_steps=8)
    for _ in range(3):
        before["optimizer"].step()
        before["lr_scheduler"]["scheduler"].step()
    changed = OptimizerConfig(learning_rate=0.5, warmup_steps=2)
    after = configure(nn.Linear(2, 2), changed, max_steps=8)
    after["lr_scheduler"]["scheduler"].load_state_dict(before["lr_scheduler"]["scheduler"].state_dict())
    assert after["optimizer"].param_groups[0]["lr"] == pytest.approx(0.5 * learning_rate_factor(3, changed, 8))
    after["optimizer"].step()
    after["lr_scheduler"]["scheduler"].step()
    assert after["optimizer"].param_groups[0]["lr"] == pytest.approx(0.5 * learning_rate_factor(4, changed, 8))


def test_muon_takes_the_matrices_of_blocks_and_adamw_the_rest():
    module = nn.Module()
    module.transformer_blocks = nn.ModuleList([nn.ModuleDict({"ff": nn.Linear(3, 4), "norm1": nn.Linear(3, 6)})])
    module.proj_out = nn.Linear(3, 3)
    optimizer = configure(module, OptimizerConfig(muon=MuonConfig(learning_rate=0.5)), 10)["optimizer"]
    (matrices,) = [group for group in optimizer.param_groups if "momentum" in group]
    assert [id(p) for p in matrices["params"]] == [id(module.transformer_blocks[0]["ff"].weight)]
    assert matrices["initial_lr"] == 0.5
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(module.parameters()))


def test_muon_needs_blocks():
    with pytest.raises(ValueError, match=r"optimizer\.muon found no matrix"):
        configure(nn.Linear(2, 2), OptimizerConfig(muon=MuonConfig()), 10)
