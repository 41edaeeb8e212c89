"""The road to the unified model, in seconds: a small VLM, a connector behind it, then connector and DiT together."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

WEIGHTS = "diffusion_pytorch_model.safetensors"
LAST, MIDDLE = "step-00000004", "step-00000002"
QUIET = ("--trainer.logger", "false")


@pytest.fixture(scope="module")
def aligned(workshop, model):
    """The run of a connector in front of this model, whose VLM is made on first use."""
    return run(workshop, "connector", "aligned", "--model.metaquery.checkpoint", model, *QUIET)


@pytest.fixture(scope="module")
def joint(workshop, model, aligned):
    """The run that trains both on."""
    return run(workshop, "joint", "joint", *start(model, aligned), *QUIET)


def run(workshop, stage, name, *words):
    return workshop.run_here(stage, "--config", f"{stage}/debug", "--run_dir", workshop.folder / name, *words)


def start(model, aligned):
    return ("--model.metaquery.checkpoint", model, "--model.metaquery.conditioner", aligned / "export")


def weights(folder, part="transformer"):
    return load_file(folder / part / WEIGHTS)


def parameters(run, checkpoint=LAST):
    from unipic2_train.training_checkpoint import read_tensors

    return read_tensors(run / "checkpoints" / checkpoint, "model")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_small_vlm_answers(aligned):
    from unipic2_train import home
    from unipic2_vlm import Understanding

    vlm = home.path("home:debug/vlm")
    assert json.loads((vlm / "scores.json").read_text())["rows"]
    assert len(Understanding.from_pretrained(vlm).ask([[]], ["How many objects are there?"])) == 1


def test_alignment_trains_queries_and_connector_alone(model, aligned):
    assert same(weights(model), weights(aligned / "export"))
    names = parameters(aligned)
    assert {name.split(".")[1] for name in names} == {"conditioner"}, "neither VLM nor DiT is in a checkpoint"


def test_joint_training_goes_on_exactly_where_it_stopped(workshop, model, joint):
    assert not same(weights(model), weights(joint / "export"))
    assert json.loads((joint / "scores.json").read_text())["rows"]
    whole = parameters(joint)
    workshop.run_here("joint", "--resume", joint / "checkpoints" / MIDDLE, *QUIET)
    assert same(whole, parameters(joint))


def test_two_processes_train_as_one(workshop, model, aligned, joint):
    folder = workshop.folder / "joint-two"
    words = ("--config", "joint/debug", "--config", "hardware/cpu-2", "--run_dir", folder)
    workshop.succeed("run", "joint", *words, *start(model, aligned), *QUIET, timeout=900)
    one, two = parameters(joint), parameters(folder)
    assert one.keys() == two.keys()
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-4
    assert (folder / "export" / "conditioner" / WEIGHTS).is_file()


def test_the_unified_model_is_a_policy_for_reinforcement(workshop, joint):
    words = ("--model.kontext.checkpoint", joint / "export", "--model.kontext.vlm", "home:debug/vlm", *QUIET)
    words = (*words, "--trainer.max_steps", 2, "--trainer.limit_val_batches", 0)
    reinforced = run(workshop, "edit-rl", "reinforced", *words)
    assert same(weights(joint / "export", "conditioner"), weights(reinforced / "export", "conditioner"))
    assert not same(weights(joint / "export"), weights(reinforced / "export"))
