"""A grid of real runs: killed in the middle of a cell, it goes on where it stood and ends with its page."""

import json
import signal
import time

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.mlflow]

WORDS = {"preset": "debug", "seeds": 1, "steps": 8, "samples": 4}
ARMS = ["joint", "t2i"]


def test_a_killed_grid_goes_on(workshop):
    from unipic2_train.reproduce.command import reproduce

    out = workshop.folder / "grid"
    options = [word for name, value in WORDS.items() for word in (f"--{name}", value)]
    process = workshop.start(
        "reproduce", "pretrain", *options, "--arms", "[joint,t2i]", "--out", out, program="unipic2-train"
    )
    end = time.monotonic() + 400
    while not list((out / "runs" / "t2i-seed0" / "checkpoints").glob("step-*[0-9]")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "no checkpoint in time"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finished = {file.name: file.stat().st_mtime_ns for file in (out / "cells").glob("*.json")}
    assert set(finished) == {"joint-seed0.json"}
    begun = json.loads((out / "runs" / "t2i-seed0" / "run.json").read_text())

    said = reproduce("pretrain", **WORDS, arms=ARMS, out=out)
    assert said.startswith("2 of 2 cells are finished")
    assert (out / "cells" / "joint-seed0.json").stat().st_mtime_ns == finished["joint-seed0.json"], "not run again"
    assert json.loads((out / "runs" / "t2i-seed0" / "run.json").read_text()) == begun, "the same MLflow run went on"

    cells = {arm: json.loads((out / "cells" / f"{arm}-seed0.json").read_text()) for arm in ARMS}
    for cell in cells.values():
        assert len(cell["mlflow"]["run_id"]) == 32
        assert set(cell["scores"]) == {"t2i/exact", "edit/exact", "t2i/accepted", "edit/copied"}
        assert all(set(measured["values"]) <= {0.0, 1.0} for measured in cell["scores"].values())
    prompts = [cell["scores"]["t2i/exact"]["prompts"] for cell in cells.values()]
    assert prompts[0] == prompts[1]
    assert len(prompts[0]) == 4
    page = (out / "report" / "reproduce-pretrain.md").read_text()
    assert "no verdict: 1 of 5 seeds" in page
    assert cells["t2i"]["mlflow"]["run_id"] in page
    summary = json.loads((out / "report" / "reproduce-pretrain.json").read_text())
    assert summary["command"] == (
        "unipic2-train reproduce pretrain --preset debug --seeds 1 --steps 8 --samples 4 --arms '[joint,t2i]'"
    )
