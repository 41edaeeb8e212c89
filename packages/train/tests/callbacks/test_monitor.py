from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.plugins.precision import Precision
from torch import nn

from unipic2_train.callbacks.monitor import TrainingMonitor, matmul_peak


class Logger:
    def __init__(self):
        self.points = []

    def log_metrics(self, metrics, step):
        self.points.append((step, dict(metrics)))


class Batch(list):
    size = (32, 32)

    def __init__(self, kind, rows, quarantined):
        super().__init__(range(rows))
        self.kind = kind
        self.weight = torch.tensor([0.0 if row in quarantined else 1.0 for row in range(rows)])


class Module(nn.Linear):
    device = torch.device("cpu")

    def training_step(self, batch, batch_idx):
        return {"loss": self(torch.ones(len(batch), 4)).sum()}


@pytest.fixture
def run():
    """Drive the monitor through optimiser steps of (kind, per_row, sigma), as the trainer does."""

    def drive(steps, every=2, accumulate=1, max_steps=100, quarantined=()):
        monitor, logger, module = TrainingMonitor(every), Logger(), Module(4, 1)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.25)
        trainer = SimpleNamespace(
            global_step=0,
            max_steps=max_steps,
            is_global_zero=False,
            loggers=[logger],
            optimizers=[optimizer],
            world_size=1,
            precision_plugin=Precision(),
        )
        monitor.on_train_start(trainer, module)
        for number, (kind, per_row, sigma) in enumerate(steps):
            batch = Batch(kind, len(per_row), quarantined)
            monitor.on_train_batch_start(trainer, module, batch, number)
            assert all(parameter.grad is None for parameter in module.parameters()) or number % accumulate
            module.training_step(batch, number)["loss"].backward()
            if (number + 1) % accumulate == 0:
                monitor.on_before_optimizer_step(trainer, module, optimizer)
                optimizer.zero_grad()
                trainer.global_step += 1
            outputs = {"per_row": torch.tensor(per_row)}
            if sigma is not None:
                outputs["sigma"] = torch.tensor(sigma)
            monitor.on_train_batch_end(trainer, module, outputs, batch, number)
        monitor.on_train_end(trainer, module)
        return dict(logger.points)

    return drive


def test_points_are_averages_by_kind_and_noise_level_since_the_last(run):
    points = run(
        [
            ("t2i", [1.0, 3.0], [0.05, 0.95]),
            ("t2i", [5.0, 7.0], [0.1, 0.5]),
            ("edit", [2.0, 2.0], [0.99, 1.0]),
            ("edit", [4.0, 8.0], [0.2, 0.39]),
            ("t2i", [9.0, 9.0], [0.3, 0.3]),
        ],
        every=3,
    )
    assert sorted(points) == [1, 3]
    assert points[1]["train/loss_t2i"] == 2.0
    third = {name: value for name, value in points[3].items() if name.startswith("train/loss")}
    assert third == {
        "train/loss_t2i": 6.0,
        "train/loss_t2i/sigma_0.0-0.2": 5.0,
        "train/loss_t2i/sigma_0.4-0.6": 7.0,
        "train/loss_edit": 2.0,
        "train/loss_edit/sigma_0.8-1.0": 2.0,
    }


def test_quarantined_rows_do_not_count(run):
    rows = ("t2i", [1.0, float("nan"), 3.0, 100.0], [0.1, 0.1, 0.5, 0.9])
    points = run([rows, rows], every=1, quarantined=[1, 3])
    losses = {name: value for name, value in points[2].items() if name.startswith("train/loss")}
    assert losses == {
        "train/loss_t2i": 2.0,
        "train/loss_t2i/sigma_0.0-0.2": 1.0,
        "train/loss_t2i/sigma_0.4-0.6": 3.0,
    }


def test_a_step_of_quarantined_rows_alone_has_no_loss(run):
    point = run([("t2i", [1.0, 3.0], [0.1, 0.5])], every=1, quarantined=[0, 1])[1]
    assert not any(name.startswith("train/loss") for name in point)
    assert "train/gradient_norm" in point


def test_the_first_and_the_last_step_are_always_points(run):
    assert sorted(run([("t2i", [1.0], [0.5])] * 5, every=50, max_steps=5)) == [1, 5]


def test_an_accumulated_step_is_one_point_over_all_its_micro_batches(run):
    points = run([("t2i", [1.0], [0.1]), ("t2i", [3.0], [0.1])], every=1, accumulate=2)
    assert list(points) == [1]
    assert points[1]["train/loss_t2i"] == 2.0


def test_gradient_norm_and_learning_rate(run):
    points = run([("t2i", [1.0, 1.0], [0.1, 0.2])], every=1)
    # d sum(Wx + b) over two rows of ones: 2 for each of four weights and the bias.
    assert points[1]["train/gradient_norm"] == pytest.approx((5 * 2.0**2) ** 0.5)
    assert points[1]["train/learning_rate"] == 0.25


def test_speed_counts_samples_and_work(run):
    points = run([("t2i", [1.0] * 8, [0.1] * 8)] * 2, every=1)
    assert points[2]["speed/samples_per_second"] > 0
    assert 0 < points[2]["speed/peak_share"] < 1


def test_a_stage_without_noise_levels(run):
    point = run([("t2i", [1.0, 2.0], None)], every=1)[1]
    assert point["train/loss_t2i"] == 1.5
    assert not any("sigma" in name for name in point)


def test_peak_is_that_of_a_machine():
    assert 1e8 < matmul_peak(torch.device("cpu"), size=256, seconds=0.02) < 1e15
