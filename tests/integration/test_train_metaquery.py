"""The road to the unified model, in seconds: a small VLM, a connector behind it, then connector and DiT together."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def model(workshop, tmp_path_factory):
    """A Kontext model as `pretrain` exports it, its transformer new but for its output."""
    from unipic2_train import export, home
    from unipic2_train.system import FrozenParts, build_transformer

    foundation = home.provide("home:debug/foundation")
    transformer = build_transformer(foundation, "scratch")
    with torch.no_grad():
        transformer.proj_out.weight.normal_(std=0.02, generator=torch.Generator().manual_seed(0))
    folder = tmp_path_factory.mktemp("model") / "kontext"
    export.save_model(folder, transformer, export.trained_values(transformer), FrozenParts(foundation), {})
    return folder


def run(workshop, stage, name, *words):
    return workshop.run_here(stage, "--config", f"{stage}/debug", "--run_dir", workshop.folder / name, *words)


def test_connector_then_joint(workshop, model):
    from unipic2_train.training_checkpoint import read_tensors
    from unipic2_vlm import QwenVLBackbone, Understanding

    where = ("--model.metaquery.checkpoint", model, "--trainer.logger", "false")
    aligned = run(workshop, "connector", "aligned", *where)
    before, after = (load_file(folder / "transformer" / WEIGHTS) for folder in (model, aligned / "export"))
    assert all(torch.equal(before[name], after[name]) for name in before), "the DiT is frozen"
    names = set(read_tensors(aligned / "checkpoints" / "step-00000004", "model"))
    assert {name.split(".")[1] for name in names} == {"conditioner"}, "neither VLM nor DiT is in a checkpoint"

    from unipic2_train import home

    vlm = home.path("home:debug/vlm")
    QwenVLBackbone.from_pretrained(vlm)
    assert json.loads((vlm / "scores.json").read_text())["rows"]
    assert Understanding.from_pretrained(vlm).ask([[]], ["How many objects are there?"])

    where = (*where, "--model.metaquery.conditioner", aligned / "export")
    joint = run(workshop, "joint", "joint", *where)
    trained = load_file(joint / "export" / "transformer" / WEIGHTS)
    assert not all(torch.equal(before[name], trained[name]) for name in before)
    assert json.loads((joint / "scores.json").read_text())["rows"]

    # What is trained from step 2 on is what was trained without a break.
    whole = read_tensors(joint / "checkpoints" / "step-00000004", "model")
    workshop.run_here("joint", "--resume", joint / "checkpoints" / "step-00000002", "--trainer.logger", "false")
    again = read_tensors(joint / "checkpoints" / "step-00000004", "model")
    assert all(torch.equal(whole[name], again[name]) for name in whole)

    # The same export is a policy for reinforcement, conditioned as it was trained.
    words = ("--model.kontext.checkpoint", joint / "export", "--model.kontext.vlm", "home:debug/vlm")
    words = (*words, "--trainer.logger", "false", "--trainer.max_steps", 2, "--trainer.limit_val_batches", 0)
    reinforced = run(workshop, "edit-rl", "reinforced", *words)
    before, after = (load_file(folder / "export" / "conditioner" / WEIGHTS) for folder in (joint, reinforced))
    assert all(torch.equal(before[name], after[name]) for name in before)
