"""The grid of the learnt edit reward: two arms that differ in which reward counts, and what they watch."""

import json

import pytest
import torch
import yaml
from safetensors.torch import save_file

from unipic2_train.edit_reward.folder import HEAD, RECORD
from unipic2_train.home import HomeError
from unipic2_train.reproduce.edit_reward import edit_reward
from unipic2_train.reproduce.grid import Cell, Grid
from unipic2_train.reproduce.page import write_page
from unipic2_train.reproduce.watch import _short, arm_watched, ends, read_watched, rows

RECORDED = {
    "format": 1,
    "question": "<prompt>",
    "mean": 0.5,
    "std": 0.2,
    "judge": {"id": "shapes", "revision": "a"},
    "vlm": None,
    "vlm_hash": "0" * 12,
    "facts": {},
}


@pytest.fixture
def learnt(tmp_path, monkeypatch):
    """A home in which a reward was trained; its folder."""
    monkeypatch.setenv("UNIPIC2_HOME", str(tmp_path))
    folder = tmp_path / "tiny" / "edit-reward"
    folder.mkdir(parents=True)
    (folder / RECORD).write_text(json.dumps(RECORDED))
    save_file({"weight": torch.zeros(1, 4), "bias": torch.zeros(1)}, folder / HEAD)
    return folder


def cells_of(grid):
    return {cell.name: cell for cell in grid.cells}


def test_arms_differ_in_which_reward_counts(learnt):
    cells = cells_of(edit_reward("tiny", seeds=2, steps=20, samples=8))
    recipes = [yaml.safe_load(yaml.safe_dump(cells[f"{arm}-seed1"].recipe)) for arm in ("verifier", "learnt")]
    weights = [{name: entry.pop("weight") for name, entry in each["model"]["rewards"].items()} for each in recipes]
    assert weights == [{"shapes": 1.0, "edit_reward": 0.0}, {"shapes": 0.0, "edit_reward": 1.0}]
    assert recipes[0] == recipes[1]
    assert recipes[0]["model"]["rewards"]["edit_reward"]["reward"]["init_args"]["folder"] == "home:tiny/edit-reward"
    assert recipes[0]["data"]["tasks"] == {"edit": 1}
    second = [cells[f"{arm}-t2i-seed1"] for arm in ("verifier", "learnt")]
    assert second[0].recipe == second[1].recipe
    assert [each.parent for each in second] == ["verifier", "learnt"]
    assert "edit_reward" not in second[0].recipe["model"]["rewards"]


@pytest.mark.parametrize("name", ["learnt-seed0", "learnt-t2i-seed0"])
def test_recipes_parse(learnt, name):
    from unipic2_train import cli, runner

    cell = cells_of(edit_reward("tiny", seeds=1, steps=20, samples=8))[name]
    runner.parse(cli.STAGES[cell.stage], ["--config", yaml.safe_dump(cell.recipe, sort_keys=False)])


def test_another_reward_is_another_grid(learnt):
    before = edit_reward("tiny", seeds=1, steps=20, samples=8).settings
    save_file({"weight": torch.ones(1, 4), "bias": torch.zeros(1)}, learnt / HEAD)
    after = edit_reward("tiny", seeds=1, steps=20, samples=8).settings
    assert [key for key in before if before[key] != after[key]] == ["edit_reward"]


def test_a_reward_that_nobody_has_trained_is_said_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIPIC2_HOME", str(tmp_path))
    with pytest.raises(HomeError, match="`lightning run edit-reward` leaves one there"):
        edit_reward("tiny", seeds=1, steps=20, samples=8)


@pytest.mark.parametrize(
    ("metric", "task", "short"),
    [
        ("rl/reward_edit", "edit", "reward"),
        ("rl/reward_edit/edit_reward", "edit", "reward/edit_reward"),
        ("rl/reward_t2i/shapes", "edit", None),
        ("rl/reward_spread_edit", "edit", None),
        ("guard/held_out_edit", "edit", "held_out"),
        ("guard/no_op_rate_edit", "t2i", None),
    ],
)
def test_names_of_what_is_watched(metric, task, short):
    assert _short(metric, task) == short


def watched(reward, held_out):
    count = len(reward)
    values = {"reward": reward, "held_out": held_out, "alarm": [0.0] * (count - 1) + [1.0]}
    return {"edit": {"iterations": list(range(1, count + 1)), "values": values}}


@pytest.fixture
def cells():
    measured = {"prompts": ["a"], "groups": ["g"], "values": [0.5]}
    facts = {"training_seconds": 60.0, "scoring_seconds": 1.0, "date": "today", "hardware": "a machine", "mlflow": {},
             "git_revision": "abc", "versions": {}, "scores": {"edit/exact": measured, "t2i/exact": measured},
             "curve": None}  # fmt: skip
    runs = {"honest": [0.1, 0.3], "hacked": [0.5, 0.7]}
    found = {
        f"{arm}-seed{seed}": {**facts, "arm": arm, "seed": seed, "watched": watched([seed + 0.2] * 2, runs[arm])}
        for arm in runs
        for seed in range(2)
    }
    return {"none-seed0": {**facts, "arm": "none", "seed": 0, "watched": None}, **found}


def test_an_arm_is_the_mean_of_its_seeds(cells):
    found = arm_watched(cells, "hacked", "edit")
    assert found["iterations"] == [1, 2]
    assert found["values"]["reward"] == pytest.approx([0.7, 0.7])
    assert ends(found, "held_out") == (0.5, 0.7)
    later = {"iterations": [2], "values": {name: values[1:] for name, values in found["values"].items()}}
    cells["hacked-seed1"]["watched"]["edit"] = later
    assert arm_watched(cells, "hacked", "edit")["iterations"] == [2]
    assert arm_watched(cells, "hacked", "edit")["values"]["held_out"] == [0.7]
    assert arm_watched(cells, "none", "edit") is None
    assert arm_watched(cells, "hacked", "t2i") is None


def test_the_page_shows_what_was_watched(cells, tmp_path):
    arms = {"none": "", "honest": "", "hacked": ""}
    measures = {"edit/exact": "editing", "t2i/exact": "text-to-image"}
    listed = [Cell(each["arm"], each["seed"], "edit-rl", {}) for each in cells.values()]
    grid = Grid("watched", "Watched", [], arms, measures, [], listed, lambda run: ({}, []))
    assert rows(grid, cells, "edit")[1:] == [
        ["honest", "0.700 -> 0.700", "0.100 -> 0.300", "1"],
        ["hacked", "0.700 -> 0.700", "0.500 -> 0.700", "1"],
    ]
    text = write_page(grid, cells, tmp_path, "unipic2-train reproduce watched")[0].read_text()
    assert "## Watched in every iteration: edit" in text
    assert "![watched, edit](reproduce-watched-watched-edit.png)" in text
    assert (tmp_path / "report" / "reproduce-watched-watched-edit.png").is_file()


def test_a_run_without_a_record_watched_nothing(tmp_path):
    assert read_watched(tmp_path) is None
