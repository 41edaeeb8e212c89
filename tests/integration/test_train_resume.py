"""A run that is killed goes on exactly where its last checkpoint left it: same bits, same MLflow run."""

import signal
import time

import pytest
import torch

from unipic2_train.tracking import find_checkpoint
from unipic2_train.training_checkpoint import read_tensors

pytestmark = [pytest.mark.slow, pytest.mark.mlflow]

STEPS, EVERY = 24, 4
LAST = f"step-{STEPS:08d}"
LAST_STEPS = {STEPS - EVERY, STEPS}


@pytest.fixture(scope="module")
def recipe(workshop):
    return workshop.recipe("exact", steps=STEPS, every=EVERY, keep=1)


@pytest.fixture(scope="module")
def whole(workshop, recipe):
    """The run that nothing interrupts."""
    return workshop.run_here("pretrain", "--config", recipe, "--run_dir", workshop.folder / "whole")


def kill_after_first_checkpoint(workshop, folder, *words):
    process = workshop.start("run", "pretrain", *words, "--run_dir", folder)
    end = time.monotonic() + 240
    while not (folder / "checkpoints" / f"step-{EVERY:08d}").is_dir():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "no checkpoint in time"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def assert_same_bits(run, other):
    for group in ("model", "ema", "optimizer"):
        one, two = (read_tensors(folder / "checkpoints" / LAST, group) for folder in (run, other))
        assert sorted(one) == sorted(two)
        assert one
        assert [name for name in one if not torch.equal(one[name], two[name])] == [], group


@pytest.fixture(scope="module", params=[0, 2], ids=["0 workers", "2 workers"])
def resumed(request, workshop, recipe):
    """A run with loader workers that was killed after its first checkpoint and went on."""
    folder = workshop.folder / f"killed-{request.param}"
    kill_after_first_checkpoint(workshop, folder, "--config", recipe, "--data.num_workers", request.param)
    assert workshop.status(folder) == "RUNNING", "nobody could say that it ended"
    reached = int(find_checkpoint(folder).name.removeprefix("step-"))
    assert EVERY <= reached < STEPS
    assert workshop.run_here("pretrain", "--resume", folder) == folder
    return folder


def test_killed_and_resumed_is_uninterrupted_bit_for_bit(workshop, whole, resumed):
    assert_same_bits(whole, resumed)
    assert workshop.status(resumed) == "FINISHED"

    expected, losses = workshop.losses(whole), workshop.losses(resumed)
    assert list(losses) == list(range(1, STEPS + 1)), "one MLflow run with every step"
    assert all(set(values) == {expected[step][0]} for step, values in losses.items()), "same batches, same loss"


def test_validation_after_a_resume_is_that_of_the_uninterrupted_run(workshop, whole, resumed):
    """A checkpoint is written before the validation of its step, which is lost if the run is killed in between."""
    for name in ("validation/loss_t2i", "validation/loss_edit"):
        expected, found = (workshop.metrics(run)[name] for run in (whole, resumed))
        assert len(set(expected) - set(found)) <= 1
        assert LAST_STEPS <= set(found) <= set(expected)
        assert all(set(found[step]) == set(expected[step]) for step in found)


def test_a_changed_setting_is_kept_beside_the_first(workshop, whole):
    """MLflow forbids a parameter to change; a resumed run says what changed in a tag and does not fail."""
    import sqlite3

    longer = workshop.run_here("pretrain", "--resume", whole, "--trainer.max_steps", STEPS + 1)
    with sqlite3.connect(longer.parent / "mlflow.db") as store:
        tags = dict(store.execute("select key, value from tags where key like 'resumed%'"))
    assert tags["resumed/trainer.max_steps"] == str(STEPS + 1)
    assert find_checkpoint(whole).name == f"step-{STEPS + 1:08d}", "the last step is kept whatever the interval"
