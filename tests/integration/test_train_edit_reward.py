"""An edit reward in seconds: edits are made and scored, a head learns from them, and reinforcement asks it."""

from __future__ import annotations

import json

import pytest
import torch

pytestmark = pytest.mark.slow

LAST, MIDDLE = "step-00000004", "step-00000002"
QUIET = ("--trainer.logger", "false")


@pytest.fixture(scope="module")
def scored(model):
    """Edits of that model, as the command makes them."""
    from unipic2_train import home
    from unipic2_train.edit_reward.command import label_edits, spelled_out
    from unipic2_train.verbs import call

    words = ["--checkpoint", str(model), "--data", "home:debug/shapes", "--out", "home:debug/edit-scores"]
    words += ["--samples", "8", "--held_out", "4", "--per_group", "4", "--steps", "1,2", "--judge", "brightness"]
    call(label_edits, "label-edits", spelled_out(words))
    return home.path("home:debug/edit-scores")


@pytest.fixture(scope="module")
def trained(workshop, scored):
    """The run that learns from them."""
    words = ("--run_dir", workshop.folder / "edit-reward", "--data.path", scored, *QUIET)
    return workshop.run_here("edit-reward", "--config", "edit-reward/debug", *words)


def parameters(run, checkpoint=LAST):
    from unipic2_train.training_checkpoint import read_tensors

    return read_tensors(run / "checkpoints" / checkpoint, "model")


def test_a_run_goes_on_exactly_where_it_stopped(workshop, trained):
    assert json.loads((trained / "scores.json").read_text())["rows"][0]["groups"] == 4
    whole = parameters(trained)
    assert not torch.equal(whole["edit_reward.network.head.weight"], torch.zeros(1, 32))
    workshop.run_here("edit-reward", "--resume", trained / "checkpoints" / MIDDLE, *QUIET)
    again = parameters(trained)
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_two_processes_learn_as_one(workshop, scored, trained):
    folder = workshop.folder / "edit-reward-two"
    words = ("--config", "edit-reward/debug", "--config", "hardware/cpu-2", "--run_dir", folder, "--data.path", scored)
    workshop.succeed("run", "edit-reward", *words, *QUIET, timeout=900)
    one, two = parameters(trained), parameters(folder)
    assert one.keys() == two.keys()
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-4
    assert (folder / "export" / "vlm" / "model.safetensors").is_file()


def test_editing_is_reinforced_by_it(workshop, model, trained):
    class_path = "unipic2_train.rewards.edit_reward.EditReward"
    reward = {"reward": {"class_path": class_path, "init_args": {"folder": str(trained / "export")}}}
    words = ("--model.kontext.checkpoint", model, "--model.rewards", json.dumps({"edit_reward": reward}))
    words = (*words, "--trainer.max_steps", 1, "--trainer.limit_val_batches", 0, "--trainer.logger", "false")
    folder = workshop.run_here(
        "edit-rl", "--config", "edit-rl/debug", "--run_dir", workshop.folder / "reinforced-by-it", *words
    )
    assert (folder / "export" / "transformer").is_dir()
