"""Grids of real runs: killed in the middle of a cell they go on where they stood; reinforcement has learning curves."""

import json
import signal
import time

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.mlflow]

WORDS = {"preset": "debug", "seeds": 1, "steps": 8, "samples": 4}
ARMS = ["joint", "t2i"]


def kill_at_first_checkpoint(process, run):
    end = time.monotonic() + 400
    while not list((run / "checkpoints").glob("step-*[0-9]")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "no checkpoint in time"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_killed_grid_goes_on(workshop):
    from unipic2_train.reproduce.command import reproduce

    out = workshop.folder / "grid"
    workshop.store_in(out / "runs")
    options = [word for name, value in WORDS.items() for word in (f"--{name}", value)]
    process = workshop.start(
        "reproduce", "pretrain", *options, "--arms", "[joint,t2i]", "--out", out, program="unipic2-train"
    )
    kill_at_first_checkpoint(process, out / "runs" / "t2i-seed0")
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


def test_reinforcement_in_stages_with_its_curves(workshop):
    from unipic2_train.reproduce.command import reproduce

    out, arms = workshop.folder / "stages", ["none", "none-guided", "edit", "edit-t2i"]
    workshop.store_in(out / "runs")
    said = reproduce("pdtr", preset="debug", seeds=1, steps=4, samples=4, arms=arms, out=out)
    assert said.startswith("4 of 4 cells are finished")
    cells = {arm: json.loads((out / "cells" / f"{arm}-seed0.json").read_text()) for arm in arms}
    assert all("edit/judged" in cell["scores"] for cell in cells.values())
    assert [cells[arm]["curve"] for arm in ("none", "none-guided")] == [None, None]
    for arm in ("edit", "edit-t2i"):
        curve = cells[arm]["curve"]
        assert curve["iterations"] == [0, 1, 2, 3, 4]
        assert curve["images"] == [0, 8, 16, 24, 32]
        assert curve["seconds"][0] == 0
        assert curve["seconds"] == sorted(curve["seconds"])
        assert [len(values) for values in curve["scores"].values()] == [5, 5]
    start = json.loads((out / "runs" / "edit-t2i-seed0" / "export" / "unipic2.json").read_text())["started_from"]
    assert start == str(out / "runs" / "edit-seed0" / "export")
    page = (out / "report" / "reproduce-pdtr.md").read_text()
    assert "C5: no verdict: 1 of 5 seeds." in page
    assert "![curves](reproduce-pdtr-curves.png)" in page


@pytest.fixture
def learnt_reward(workshop):
    """An edit reward at home:debug/edit-reward, whose head nobody has trained."""
    import torch

    from unipic2_train import home
    from unipic2_train.edit_reward.folder import save_edit_reward
    from unipic2_train.edit_reward.network import PROMPT
    from unipic2_train.vlm.lessons import words
    from unipic2_vlm.small import SmallVlmConfig, write_small_vlm

    vlm = workshop.folder / "small-vlm"
    sizes = SmallVlmConfig(width=32, num_layers=2, num_heads=2, vision_width=16, vision_layers=1, vision_heads=2)
    write_small_vlm(vlm, words(), sizes)
    head = {"weight": torch.randn(1, 32, generator=torch.Generator().manual_seed(0)), "bias": torch.zeros(1)}
    judge = {"id": "shapes", "revision": "none"}
    record = {"question": PROMPT, "mean": 0.5, "std": 0.2, "judge": judge, "vlm": str(vlm)}
    save_edit_reward(home.folder() / "debug" / "edit-reward", vlm, None, head, record, {})


@pytest.mark.usefixtures("learnt_reward")
def test_a_learnt_reward_against_the_verifier(workshop):
    """Killed while the learnt reward reinforces, it goes on, and the page shows what both arms watched."""
    from unipic2_train.reproduce.command import reproduce

    out, arms = workshop.folder / "learnt", ["none", "verifier", "learnt"]
    workshop.store_in(out / "runs")
    words = ["--preset", "debug", "--seeds", 1, "--steps", 4, "--samples", 4, "--arms", f"[{','.join(arms)}]"]
    process = workshop.start("reproduce", "edit-reward", *words, "--out", out, program="unipic2-train")
    kill_at_first_checkpoint(process, out / "runs" / "learnt-seed0")
    assert {file.name for file in (out / "cells").glob("*.json")} == {"none-seed0.json", "verifier-seed0.json"}
    begun = (out / "runs" / "learnt-seed0" / "run.json").read_text()

    said = reproduce("edit-reward", preset="debug", seeds=1, steps=4, samples=4, arms=arms, out=out)
    assert said.startswith("3 of 3 cells are finished")
    assert (out / "runs" / "learnt-seed0" / "run.json").read_text() == begun, "the same MLflow run went on"
    cells = {arm: json.loads((out / "cells" / f"{arm}-seed0.json").read_text()) for arm in arms}
    assert cells["none"]["watched"] is None
    assert cells["verifier"]["watched"]["edit"]["iterations"] == [1, 2, 3, 4]
    assert cells["learnt"]["watched"]["edit"]["iterations"][-1] == 4
    for arm in ("verifier", "learnt"):
        values = cells[arm]["watched"]["edit"]["values"]
        both = {"reward/shapes", "reward/edit_reward", "held_out", "no_op_rate", "over_edit_rate", "alarm"}
        assert both <= set(values)
    assert cells["verifier"]["curve"]["iterations"] == [0, 1, 2, 3, 4]
    learnt = cells["learnt"]["curve"]["iterations"]  # it may have been killed between checkpoint and evaluation
    assert (learnt[0], learnt[-1]) == (0, 4)
    page = (out / "report" / "reproduce-edit-reward.md").read_text()
    assert "## Watched in every iteration: edit" in page
    assert "held-out judge" in page
    assert "![curves](reproduce-edit-reward-curves.png)" in page
