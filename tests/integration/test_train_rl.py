"""A complete edit-rl -> t2i-rl as people start it, resumed runs, two processes, and a planted hack."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from unipic2_train.home import HomeError
from unipic2_train.training_checkpoint import read_tensors
from unipic2_train.workflows import pdtr as workflow

pytestmark = [pytest.mark.slow, pytest.mark.mlflow]

ITERATIONS, HALF = 4, 2
LAST, MIDDLE = f"step-{ITERATIONS:08d}", f"step-{HALF:08d}"
NFT = ("--config", "edit-rl/layers/nft")
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def model(workshop):
    """A model that has seen a few steps of pre-training."""
    words = ("--config", "pretrain/debug", "--run_dir", workshop.folder / "base", "--trainer.logger", "false")
    return workshop.run_here("pretrain", *words) / "export"


@pytest.fixture(scope="module")
def pdtr(workshop, model):
    """The folder of both stages' runs."""
    folder = workshop.folder / "pdtr"
    workshop.store_in(folder)
    workflow.run(["--preset", "debug", "--checkpoint", str(model), "--run_dir", str(folder)])
    return folder


def reinforce(workshop, model, name, *words, **options):
    """Run edit-rl in this process and return its folder."""
    start = ("--config", "edit-rl/debug", *words, "--model.kontext.checkpoint", model)
    return workshop.run_here("edit-rl", *start, "--run_dir", workshop.folder / name, **options)


@pytest.mark.parametrize("stage", ["edit-rl", "t2i-rl"])
def test_ratios_start_at_one_from_the_first_iteration(workshop, pdtr, stage):
    metrics = workshop.metrics(pdtr / stage)
    ratios = metrics["rl/first_update_abs_log_ratio"]
    assert sorted(ratios) == list(range(1, ITERATIONS + 1))
    assert max(value for values in ratios.values() for value in values) < 1e-6
    task = stage.removesuffix("-rl")
    for name in ("rl/kl", "rl/gradient_norm", f"rl/reward_{task}/brightness", f"guard/held_out_{task}"):
        assert sorted(metrics[name]) == sorted(ratios), name
    assert metrics["rl/gradient_norm"][1][0] > 0
    assert workshop.status(pdtr / stage) == "FINISHED"


def test_after_each_stage_both_tasks_are_measured(workshop, pdtr):
    for stage in ("edit-rl", "t2i-rl"):
        metrics = workshop.metrics(pdtr / stage)
        for name in ("validation/t2i/exact", "validation/edit/exact", "test/t2i/exact", "test/edit/exact"):
            assert name in metrics, (stage, name)


def test_grids_show_before_and_after(pdtr):
    names = {path.name for path in (pdtr / "t2i-rl" / "samples").iterdir()}
    assert names == {"step-00000000.png", f"{LAST}.png", "test.png"}


def test_checkpoints_count_iterations(pdtr):
    assert sorted(path.name for path in (pdtr / "edit-rl" / "checkpoints").iterdir()) == [MIDDLE, LAST]


def test_the_second_stage_starts_from_the_first_s_average_with_its_adapter_merged(pdtr, model):
    start, made = load_file(model / WEIGHTS), load_file(pdtr / "edit-rl" / "export" / WEIGHTS)
    assert start.keys() == made.keys()
    average = read_tensors(pdtr / "edit-rl" / "checkpoints" / LAST, "ema")
    adapted = {}
    for name, down in average.items():
        if "lora_A" in name:
            layer = name.removeprefix("kontext.transformer.").removesuffix(".lora_A.default.weight")
            adapted[f"{layer}.weight"] = 64 / 32 * average[name.replace("lora_A", "lora_B")] @ down
    assert adapted
    for name, value in made.items():
        torch.testing.assert_close(value, start[name] + adapted.get(name, 0), rtol=0, atol=1e-6)
    facts = json.loads((pdtr / "t2i-rl" / "export" / "unipic2.json").read_text())
    assert facts["started_from"] == str(pdtr / "edit-rl" / "export")
    assert json.loads((pdtr / "edit-rl" / "export" / "unipic2.json").read_text())["started_from"] == str(model)


def cut_off(run, name):
    """Copy a run as it would be, had it been killed after its first checkpoint."""
    return shutil.copytree(run, run.with_name(name), ignore=shutil.ignore_patterns(LAST, "export"))


def assert_same_bits(one, other):
    for group in ("model", "ema", "optimizer"):
        expected, found = (read_tensors(run / "checkpoints" / LAST, group) for run in (one, other))
        assert expected
        assert expected.keys() == found.keys()
        assert [name for name in expected if not torch.equal(expected[name], found[name])] == [], group


def state_of(run):
    meta = torch.load(run / "checkpoints" / LAST / "meta.pt", weights_only=False)
    return meta["reinforcement"]


@pytest.fixture(scope="module")
def nft(workshop, model):
    return reinforce(workshop, model, "nft", *NFT)


@pytest.mark.parametrize("algorithm", ["grpo", "nft"])
def test_resumed_is_uninterrupted_bit_for_bit(workshop, pdtr, nft, algorithm):
    whole = {"grpo": pdtr / "edit-rl", "nft": nft}[algorithm]
    resumed = cut_off(whole, f"resumed-{algorithm}")
    assert workshop.run_here("edit-rl", "--resume", resumed) == resumed
    assert_same_bits(whole, resumed)
    one, other = state_of(whole), state_of(resumed)
    assert one["guards"] == other["guards"]
    if algorithm == "nft":
        assert all(torch.equal(value, other["old"][name]) for name, value in one["old"].items())
    metrics = workshop.metrics(resumed)  # one MLflow run of both
    for name in ("rl/reward_edit/brightness", "rl/policy_loss", "guard/diversity_edit", "rl/gradient_norm"):
        assert all(len(set(values)) == 1 for values in metrics[name].values()), name
        assert len(metrics[name][ITERATIONS]) == 2


def test_two_processes_reinforce_as_one_does(workshop, model, nft):
    folder = workshop.folder / "nft-two"
    words = ("run", "edit-rl", "--config", "edit-rl/debug", *NFT, "--config", "hardware/cpu-2")
    start = ("--model.kontext.checkpoint", model, "--run_dir", folder, "--model.rl.rollout.micro_batch", "4")
    short = ("--trainer.max_steps", HALF, "--trainer.limit_val_batches", "0")
    workshop.succeed(*words, *start, *short, timeout=600)
    expected, found = (read_tensors(run / "checkpoints" / MIDDLE, "model") for run in (nft, folder))
    assert max((expected[name] - found[name]).abs().max() for name in expected) < 1e-3
    names = ("rl/reward_edit/brightness", "rl/policy_loss", "guard/diversity_edit", "guard/no_op_rate_edit")
    single, sharded = workshop.metrics(nft), workshop.metrics(folder)
    for name in names:
        assert sharded[name][1] == pytest.approx(single[name][1], abs=1e-4), name
    assert (folder / "export" / WEIGHTS).is_file()


def test_a_planted_hack_sets_the_alarm_off(workshop, model):
    """Brightness pleases the reward at the judge's expense: the run says so and stops."""
    words = ("--model.guards.held_out", "{class_path: rl_probe.Darkness}", "--model.guards.window", "8")
    words += ("--model.guards.stop", "true", "--model.optimizer.learning_rate", "5e-3", "--trainer.max_steps", "30")
    words += ("--data.global_batch", "32", "--data.group_size", "16", "--model.rl.rollout.micro_batch", "32")
    words += (
        "--model.rewards.shapes.weight",
        "0",
        "--trainer.limit_val_batches",
        "0",
        "--model.kontext.adapter",
        "null",
        "--model.rl.kl.weight",
        "0",
    )
    run = reinforce(workshop, model, "hacked", *words)
    alarms = workshop.metrics(run)["guard/alarm_edit"]
    stopped = max(alarms)
    assert alarms[stopped] == [1.0]
    assert stopped < 30
    assert all(values == [0.0] for step, values in alarms.items() if step < stopped)


def test_without_the_demo_s_model_the_command_that_makes_it_is_named(workshop):
    with pytest.raises(HomeError, match="make demo"):
        workshop.run_here("edit-rl")
