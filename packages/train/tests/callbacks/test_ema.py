from types import SimpleNamespace

import pytest
import torch
from torch import nn

from unipic2_train.callbacks.ema import ExponentialMovingAverage, averaged_weights


class Module(nn.Module):
    def __init__(self):
        super().__init__()
        self.trained = nn.Linear(3, 2)
        self.frozen = nn.Linear(3, 2).requires_grad_(False)


def moved(module, step):
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))


def started(decay=0.8):
    module, ema = Module(), ExponentialMovingAverage(decay)
    ema.on_train_start(SimpleNamespace(global_step=0), module)
    return module, ema


def test_the_average_is_that_of_an_independent_loop():
    module, ema = started(decay=0.8)
    expected = {name: value.detach().double().clone() for name, value in module.trained.named_parameters()}
    for step in range(40):
        moved(module, step)
        ema.on_train_batch_end(SimpleNamespace(global_step=step + 1), module)
        decay = min(0.8, (1 + step) / (10 + step))
        for name, value in module.trained.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * value.detach().double()
    assert decay == 0.8, "both branches of the decay were taken"
    for name, value in expected.items():
        torch.testing.assert_close(ema.average[f"trained.{name}"].double(), value, rtol=1e-5, atol=1e-6)


def test_accumulated_micro_batches_count_once():
    module, ema = started()
    for step in (0, 0, 1, 1):  # the optimiser steps after every second micro-batch
        moved(module, step)
        ema.on_train_batch_end(SimpleNamespace(global_step=step), module)
    assert ema.num_updates == 1


def test_only_what_is_trained_is_averaged():
    assert sorted(started()[1].average) == ["trained.bias", "trained.weight"]


def test_the_swap_shows_the_average_and_restores_the_weights_bit_for_bit():
    module, ema = started()
    moved(module, 1)
    ema.update(module)
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    with ema.applied(module):
        assert torch.equal(module.trained.weight, ema.average["trained.weight"])
        assert not torch.equal(module.trained.weight, before["trained.weight"])
        assert torch.equal(module.frozen.weight, before["frozen.weight"])
    assert all(torch.equal(value, before[name]) for name, value in module.named_parameters())


def test_the_swap_restores_after_an_error():
    module, ema = started()
    moved(module, 1)
    before = module.trained.weight.detach().clone()
    with pytest.raises(RuntimeError, match="in the block"), ema.applied(module):
        raise RuntimeError("in the block")
    assert torch.equal(module.trained.weight, before)


@pytest.mark.parametrize(
    ("start", "end"),
    [("on_validation_start", "on_validation_end"), ("on_test_start", "on_test_end"), ("on_validation_start", None)],
)
def test_evaluation_sees_the_average_and_training_the_weights(start, end):
    module, ema = started()
    moved(module, 1)
    before = module.trained.weight.detach().clone()
    getattr(ema, start)(None, module)
    assert torch.equal(module.trained.weight, ema.average["trained.weight"])
    if end is None:
        ema.on_exception(None, module, KeyboardInterrupt())
    else:
        getattr(ema, end)(None, module)
    assert torch.equal(module.trained.weight, before)


def test_a_swap_within_a_swap_keeps_the_average():
    """The export at the end of training and a grid inside validation may both ask for the average."""
    module, ema = started()
    moved(module, 1)
    before = module.trained.weight.detach().clone()
    trainer = SimpleNamespace(callbacks=[ema], lightning_module=module)
    with averaged_weights(trainer), averaged_weights(trainer):
        assert torch.equal(module.trained.weight, ema.average["trained.weight"])
    assert torch.equal(module.trained.weight, before)


def test_without_an_average_the_weights_are_used():
    module = Module()
    before = module.trained.weight.detach().clone()
    with averaged_weights(SimpleNamespace(callbacks=[], lightning_module=module)):
        assert torch.equal(module.trained.weight, before)


def test_state_survives():
    module, ema = started()
    for step in range(3):
        moved(module, step)
        ema.update(module)
    checkpoint = {}
    ema.on_save_checkpoint(None, module, checkpoint)
    other = ExponentialMovingAverage(0.8)
    other.on_load_checkpoint(None, module, checkpoint)
    other.load_state_dict(ema.state_dict())
    other.on_train_start(SimpleNamespace(global_step=3), module)
    moved(module, 5)
    ema.update(module)
    other.update(module)
    assert other.num_updates == 4
    assert all(torch.equal(other.average[name], ema.average[name]) for name in ema.average)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
def test_impossible_decay(decay):
    with pytest.raises(ValueError, match="decay"):
        ExponentialMovingAverage(decay)
