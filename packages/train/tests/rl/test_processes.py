"""Two processes under FSDP2 reinforce as one does: whole iterations in float64."""

import os
import runpy
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("one_iteration.py")


def run(folder, data, out, world):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), str(folder), str(data), str(out)]
    processes = [
        subprocess.Popen(command, env={**os.environ, **variables, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(world)
    ]
    errors = [process.communicate(timeout=800)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * world, errors[0][-3000:]
    return torch.load(out)


@pytest.mark.slow
def test_two_processes_are_one(foundation, transformer, shapes, tmp_path):
    folder = shutil.copytree(foundation, tmp_path / "model")
    transformer.save_pretrained(folder / "transformer")
    runpy.run_path(str(SCRIPT))["main"](str(folder), str(shapes), str(tmp_path / "one.pt"))
    one, two = torch.load(tmp_path / "one.pt"), run(folder, shapes, tmp_path / "two.pt", world=2)
    for name in ("grpo", "nft"):
        assert max(value.abs().max() for key, value in one[name]["weights"].items() if "lora_B" in key) > 1e-3
        for part in ("weights", "old"):
            expected, found = one[name][part], two[name][part]
            if expected is None:
                continue
            difference = max((found[key] - expected[key]).abs().max().item() for key in expected)
            assert difference < 1e-8, (name, part)
        for expected, found in zip(one[name]["metrics"], two[name]["metrics"], strict=True):
            same = {key for key in expected if not key.startswith("speed/")}
            assert {key: found[key] for key in same} == pytest.approx({key: expected[key] for key in same}, abs=1e-6)
        assert one[name]["metrics"][0]["rl/dropped_groups_share"] > 0
    assert two["grpo"]["metrics"][0]["rl/first_update_abs_log_ratio"] < 1e-6
