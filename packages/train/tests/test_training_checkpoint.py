"""Training checkpoints: what is stored comes back, what does not fit is listed, what fails leaves nothing."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from unipic2_train import training_checkpoint
from unipic2_train.training_checkpoint import CheckpointError, load, read_tensors, remove, save, trainable_parameters


def small(width=4):
    module = nn.Sequential(nn.Linear(3, width), nn.Linear(width, 2), nn.Linear(2, 2))
    module[2].requires_grad_(False)
    return module


def trained(width=4, steps=3, seed=0):
    torch.manual_seed(seed)
    module = small(width)
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=0.1)
    for _ in range(steps):
        module(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return module, optimizer


def average_of(module):
    return {name: value.detach() + 1 for name, value in trainable_parameters(module).items()}


@pytest.fixture
def saved(tmp_path):
    module, optimizer = trained()
    save(tmp_path / "step-3", module, [optimizer], average_of(module), {"global_step": 3})
    return tmp_path / "step-3", module, optimizer


def test_round_trip_is_exact(saved):
    path, module, optimizer = saved
    other, other_optimizer = trained(steps=0, seed=9)
    frozen = other[2].weight.clone()
    meta, ema = load(path, other, [other_optimizer])

    assert meta == {"global_step": 3}
    for name, parameter in trainable_parameters(module).items():
        restored = trainable_parameters(other)[name]
        assert torch.equal(restored, parameter)
        assert torch.equal(ema[name], parameter + 1)
        expected, found = optimizer.state[parameter], other_optimizer.state[restored]
        assert expected.keys() == found.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(expected[slot], found[slot]) for slot in expected)
    assert torch.equal(other[2].weight, frozen), "frozen weights are none of the checkpoint's business"


def test_training_goes_on_as_if_never_stopped(saved):
    path, module, optimizer = saved
    other, other_optimizer = trained(steps=0, seed=9)
    other[2].load_state_dict(module[2].state_dict())
    load(path, other, [other_optimizer])
    inputs = torch.randn(5, 3)
    for each, its_optimizer in ((module, optimizer), (other, other_optimizer)):
        each(inputs).square().sum().backward()
        its_optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True))


def test_only_trainable_state_is_stored(saved):
    assert sorted(read_tensors(saved[0], "model")) == ["0.bias", "0.weight", "1.bias", "1.weight"]
    assert sorted(read_tensors(saved[0], "ema")) == sorted(read_tensors(saved[0], "model"))


def test_without_average_or_optimizer(tmp_path):
    module, _ = trained()
    save(tmp_path / "plain", module, [], None, {})
    _, ema = load(tmp_path / "plain", small(), [])
    assert ema is None


def test_weights_load_without_the_optimizer(saved):
    other = small()
    load(saved[0], other, [])
    assert torch.equal(other[0].weight, saved[1][0].weight)


def test_differences_are_all_listed(saved):
    other = small(width=4)
    other[0] = nn.Linear(3, 4, bias=False)
    other[1] = nn.Linear(4, 7)
    other.append(nn.Linear(1, 1))
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load(saved[0], other, [])
    message = str(caught.value)
    assert "unexpected 0.bias" in message
    assert "missing 3.weight" in message
    assert "1.weight is (2, 4) in the checkpoint, (7, 4) in this recipe" in message
    assert "config.yaml" in message
    assert all(torch.equal(before[name], value) for name, value in other.state_dict().items()), "nothing was loaded"


def test_many_differences_are_counted(saved):
    other = nn.Sequential(*(nn.Linear(1, 1) for _ in range(30)))
    with pytest.raises(CheckpointError, match=r"and \d+ more"):
        load(saved[0], other, [])


@pytest.mark.parametrize("damage", ["meta.pt", ".metadata"])
def test_an_incomplete_folder_is_refused(saved, damage):
    (saved[0] / damage).unlink()
    assert not training_checkpoint.is_training_checkpoint(saved[0])
    for read in (lambda: load(saved[0], small(), []), lambda: read_tensors(saved[0], "model")):
        with pytest.raises(CheckpointError, match="not a complete training checkpoint"):
            read()


def test_a_second_save_replaces_the_first(saved):
    path, module, optimizer = saved
    with torch.no_grad():
        module[0].weight.zero_()
    save(path, module, [optimizer], None, {"global_step": 4})
    meta, ema = load(path, small(), [])
    assert (meta["global_step"], ema) == (4, None)
    assert not read_tensors(path, "model")["0.weight"].any()
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_what_was_left_by_a_killed_process_does_not_disturb(saved):
    path, module, optimizer = saved
    left = path.with_name(f".{path.name}.partial")
    left.mkdir()
    (left / "__0_0.distcp").write_bytes(b"half")
    save(path, module, [optimizer], None, {})
    assert not left.exists()


def test_remove(saved):
    remove(saved[0])
    remove(saved[0])
    assert not saved[0].exists()


FILL_THE_DISK = """
import resource, sys, torch
from pathlib import Path
from torch import nn
from unipic2_train.training_checkpoint import CheckpointError, save
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = Path(sys.argv[1])
module = nn.Linear(256, 256)
save(folder / "step-1", module, [], None, {"global_step": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save(folder / sys.argv[2], module, [], None, {"global_step": 2})
except CheckpointError as error:
    print(error)
    sys.exit(7)
"""


@pytest.mark.parametrize("name", ["step-2", "step-1"])
def test_a_full_disk_leaves_the_older_checkpoint_and_nothing_half_written(tmp_path, name):
    """Every write beyond 100 kB fails, as on a full disk, while a checkpoint of 260 kB is written."""
    done = subprocess.run(
        [sys.executable, "-c", FILL_THE_DISK, str(tmp_path), name],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert done.returncode == 7, done.stdout + done.stderr
    assert f"could not write the checkpoint {tmp_path / name}: EFBIG" in done.stdout
    assert "checkpoints written before are intact" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]
    meta, _ = load(tmp_path / "step-1", nn.Linear(256, 256), [])
    assert meta["global_step"] == 1


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="could not write"):
        save(tmp_path / "file" / "step-1", small(), [], None, {})


def test_ctrl_c_while_saving_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(training_checkpoint.torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "step-1", small(), [], None, {})
    assert list(tmp_path.iterdir()) == []
