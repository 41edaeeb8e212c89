"""FSDP2 over two processes is training as one process does it: same losses, one checkpoint format, same average.

The commands are those that people type; the processes are real, on the CPU over gloo, in float32.
"""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemReader

from unipic2_train.training_checkpoint import read_tensors

pytestmark = [pytest.mark.slow, pytest.mark.mlflow]

STEPS, HALF = 20, 10
LAST, MIDDLE = f"step-{STEPS:08d}", f"step-{HALF:08d}"
TOLERANCE = 1e-5


def keys(checkpoint):
    return set(FileSystemReader(checkpoint).read_metadata().state_dict_metadata)


def largest_difference(one, other):
    assert sorted(one) == sorted(other)
    return max((one[name] - other[name]).abs().max().item() for name in one)


def assert_same_state(run, other, checkpoint=LAST):
    for group in ("model", "ema"):
        tensors = [read_tensors(folder / "checkpoints" / checkpoint, group) for folder in (run, other)]
        difference = largest_difference(*tensors)
        assert difference < TOLERANCE, group


def half_of(run, name):
    """Copy a run as it would be, had it been cut off after its first checkpoint."""
    copy = shutil.copytree(run, run.with_name(name), ignore=shutil.ignore_patterns(LAST, "export"))
    assert [path.name for path in (copy / "checkpoints").iterdir()] == [MIDDLE]
    return copy


@pytest.fixture(scope="module")
def recipe(workshop):
    # A constant learning rate: the last steps move the weights as much as the first.
    return workshop.recipe("twenty", steps=STEPS, every=HALF, more="model: {optimizer: {schedule: constant}}\n")


@pytest.fixture(scope="module")
def two(workshop, recipe):
    """Two processes, uninterrupted."""
    folder = workshop.folder / "two"
    workshop.succeed("run", "pretrain", "--config", recipe, "--config", "hardware/cpu-2", "--run_dir", folder)
    return folder


@pytest.fixture(scope="module")
def one(workshop, recipe):
    """One process without sharding, uninterrupted."""
    return workshop.run_here("pretrain", "--config", recipe, "--run_dir", workshop.folder / "one")


@pytest.fixture(scope="module")
def resumed_on_two(workshop, two):
    folder = half_of(two, "resumed-on-two")
    workshop.succeed("run", "pretrain", "--resume", folder)
    return folder


@pytest.fixture(scope="module")
def resumed_on_one(workshop, two):
    folder = half_of(two, "resumed-on-one")
    workshop.run_here("pretrain", "--config", folder / "config.yaml", "--config", "hardware/cpu", "--resume", folder)
    return folder


def test_the_run_had_two_ranks(two):
    assert len(list((two / "checkpoints" / LAST).glob("__*.distcp"))) == 2


def test_losses_are_those_of_one_process_at_every_step(workshop, one, two):
    single, sharded = (workshop.losses(run) for run in (one, two))
    assert list(single) == list(sharded) == list(range(1, STEPS + 1))
    assert all(len(values) == 1 for values in sharded.values())
    differences = {step: abs(single[step][0] - sharded[step][0]) for step in single}
    assert max(differences.values()) < TOLERANCE, differences
    assert abs(single[1][0] - single[STEPS][0]) > 100 * TOLERANCE, "a loss that stands still would prove nothing"


def test_both_kinds_were_trained(workshop, two):
    metrics = workshop.metrics(two)
    assert len(metrics["train/loss_t2i"]) == len(metrics["train/loss_edit"]) == STEPS // 2


def test_weights_and_average_are_those_of_one_process(one, two):
    assert_same_state(one, two)
    average, weights = (read_tensors(two / "checkpoints" / LAST, group) for group in ("ema", "model"))
    lag = largest_difference(average, weights)
    assert lag > 100 * TOLERANCE, "the average lags behind the weights"


def test_replicated_processes_train_as_one_does(workshop, recipe, one):
    folder = workshop.folder / "replicated"
    arguments = ("--config", recipe, "--config", "hardware/cpu-2-replicated", "--run_dir", folder)
    workshop.succeed("run", "pretrain", *arguments)
    assert_same_state(folder, one)
    assert keys(folder / "checkpoints" / LAST) == keys(one / "checkpoints" / LAST)


def test_validation_of_the_average_is_that_of_one_process(workshop, one, two):
    for name in ("validation/loss_t2i", "validation/loss_edit"):
        single, sharded = (workshop.metrics(run)[name] for run in (one, two))
        assert HALF in sharded
        assert single.keys() == sharded.keys()
        assert all(abs(single[step][0] - sharded[step][0]) < TOLERANCE for step in single)


def test_pictures_and_scores_were_made_between_steps_and_at_the_end(workshop, two):
    assert {path.name for path in (two / "samples").iterdir()} == {f"{MIDDLE}.png", f"{LAST}.png", "test.png"}
    rows = json.loads((two / "scores.json").read_text())["rows"]
    assert {row["kind"]: row["total"] for row in rows if row["category"] == "all"} == {
        "t2i": 4,
        "edit": 4,
    }  # of both ranks
    assert "test/t2i/exact" in workshop.metrics(two)
    assert workshop.status(two) == "FINISHED"


def test_the_checkpoint_holds_trainable_state_only(two, one):
    expected = keys(one / "checkpoints" / LAST)
    stored = keys(two / "checkpoints" / LAST)
    assert stored == expected
    weights = {key.removeprefix("model/") for key in stored if key.startswith("model/")}
    assert {name.split(".")[1] for name in weights} == {"transformer"}
    assert {key.removeprefix("ema/") for key in stored if key.startswith("ema/")} == weights
    slots = {name: set() for name in weights}
    for key in stored:
        if key.startswith("optimizer/0/"):
            name, slot = key.removeprefix("optimizer/0/").rsplit("/", 1)
            slots[name].add(slot)
    kinds = {frozenset(found) for found in slots.values()}
    assert kinds == {frozenset({"momentum_buffer"}), frozenset({"exp_avg", "exp_avg_sq", "step"})}  # Muon and AdamW
    state = {f"optimizer/0/{name}/{slot}" for name, found in slots.items() for slot in found}
    assert stored == {f"{group}/{name}" for group in ("model", "ema") for name in weights} | state


def test_the_checkpoint_is_as_large_as_its_tensors(two):
    checkpoint = two / "checkpoints" / LAST
    groups = ("model", "ema", "optimizer")
    tensors = sum(value.nbytes for group in groups for value in read_tensors(checkpoint, group).values())
    size = sum(file.stat().st_size for file in checkpoint.iterdir())
    assert tensors <= size < tensors + 1_500_000  # names and headers


def test_resumed_on_two_goes_on(workshop, two, resumed_on_two):
    assert_same_state(two, resumed_on_two)


def test_resumed_on_one_goes_on(workshop, two, resumed_on_one):
    assert len(list((resumed_on_one / "checkpoints" / LAST).glob("__*.distcp"))) == 1
    assert_same_state(two, resumed_on_one)


def test_losses_after_a_resume_are_those_of_the_uninterrupted_run(workshop, two, resumed_on_two, resumed_on_one):
    losses = workshop.losses(two)  # the resumed ones continue the same MLflow run
    for step, values in losses.items():
        assert len(values) == (1 if step <= HALF else 3), step
        assert max(values) - min(values) < TOLERANCE, step


def test_the_average_of_a_sharded_checkpoint_exports_in_one_process(workshop, two):
    """Saved by two ranks in the middle of the run, it is read by one bit for bit."""
    from unipic2_train.runner import export_run

    checkpoint = two / "checkpoints" / MIDDLE
    export_run(checkpoint, workshop.folder / "middle")
    assert_holds(workshop.folder / "middle", read_tensors(checkpoint, "ema"))


def assert_holds(model, average):
    weights = load_file(model / "transformer" / "diffusion_pytorch_model.safetensors")
    prefix = "kontext.transformer."
    assert [name for name in average if not torch.equal(weights[name.removeprefix(prefix)], average[name])] == []


def test_export_of_two_processes_is_the_average(two):
    assert_holds(two / "export", read_tensors(two / "checkpoints" / LAST, "ema"))


@pytest.fixture(scope="module")
def adapters(workshop, two):
    """The same fine-tuning of an adapter on two processes and on one."""
    recipe = workshop.recipe("adapter", steps=4, every=4, base="finetune/debug")
    words = ["--config", recipe, "--model.kontext.checkpoint", two / "export"]
    folder = workshop.folder / "adapter-two"
    workshop.succeed("run", "finetune", *words, "--run_dir", folder, "--config", "hardware/cpu-2")
    return folder, workshop.run_here("finetune", *words, "--run_dir", workshop.folder / "adapter-one")


def test_an_adapter_is_all_that_its_sharded_checkpoint_holds(adapters):
    stored = keys(adapters[0] / "checkpoints" / "step-00000004")
    assert stored
    assert [key for key in stored if "lora_" not in key] == []
    assert {key.split("/")[0] for key in stored} == {"model", "ema", "optimizer"}


def test_an_adapter_trained_on_two_is_that_of_one(workshop, adapters):
    files = [folder / "export" / "pytorch_lora_weights.safetensors" for folder in adapters]
    sharded, single = (load_file(file) for file in files)
    difference = largest_difference(sharded, single)
    assert difference < TOLERANCE
    assert any(value.abs().max() > 0 for name, value in sharded.items() if "lora_B" in name), "it has learnt something"
    losses = [workshop.losses(folder) for folder in adapters]
    assert all(abs(losses[0][step][0] - losses[1][step][0]) < TOLERANCE for step in range(1, 5))
