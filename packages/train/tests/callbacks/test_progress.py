from types import SimpleNamespace

import pytest
import torch

from unipic2_train.callbacks.monitor import TrainingMonitor
from unipic2_train.callbacks.progress import ProgressMonitor
from unipic2_train.rl.monitor import ReinforcementMonitor


class Logger:
    def __init__(self):
        self.points = []

    def log_metrics(self, metrics, step):
        self.points.append((step, dict(metrics)))


def trainer(**changes):
    given = {"loggers": [Logger()], "global_step": 0, "max_steps": 10, "is_global_zero": True, "callback_metrics": {}}
    return SimpleNamespace(**{**given, **changes})


@pytest.mark.parametrize("monitor", [TrainingMonitor, ReinforcementMonitor])
def test_what_a_stage_measures_is_logged_at_the_optimiser_step(monitor):
    metrics = {"validation/loss_t2i": torch.tensor(0.5), "step": torch.tensor(3), "test/loss_t2i": torch.tensor(0.25)}
    run = trainer(callback_metrics=metrics, global_step=10)
    monitor().on_validation_end(run, None)
    monitor().on_test_end(run, None)
    assert run.loggers[0].points == [(10, {"validation/loss_t2i": 0.5}), (10, {"test/loss_t2i": 0.25})]


def test_the_first_the_last_and_every_so_many_steps_are_points():
    monitor = ProgressMonitor(4, "step", "training")
    assert [step for step in range(1, 11) if monitor.is_point(step, trainer())] == [1, 4, 8, 10]


@pytest.mark.parametrize("end", ["on_train_end", "on_exception"])
def test_the_bar_goes_on_where_the_run_stood_and_is_closed(end, capsys):
    monitor = ProgressMonitor(1, "iteration", "reinforcing")
    monitor.on_train_start(trainer(global_step=4), None)
    monitor.show({"reward edit": "0.250"})
    monitor.advance(6)
    getattr(monitor, end)(trainer(), None, *([KeyboardInterrupt()] if end == "on_exception" else []))
    last = capsys.readouterr().err.split("\r")[-1]
    assert "reinforcing: 100%" in last
    assert "10/10" in last
    assert "reward edit=0.250" in last
    assert last.endswith("\n"), "what is printed next starts a line of its own"


def test_other_processes_show_no_bar(capsys):
    monitor = ProgressMonitor(1, "step", "training")
    monitor.on_train_start(trainer(is_global_zero=False), None)
    monitor.show({"loss": "1"})
    monitor.advance(1)
    monitor.on_train_end(trainer(), None)
    assert capsys.readouterr().err == ""
