"""Grids say what runs and what is claimed, and refuse to contradict themselves."""

import pytest
import yaml

from unipic2_train.reproduce.command import reproduce
from unipic2_train.reproduce.grid import Cell, Claim, Grid, nested, short_recipe
from unipic2_train.reproduce.pretrain import pretrain


def test_a_short_recipe_is_the_recipe_but_for_length_seed_and_scoring():
    recipe = short_recipe("pretrain/tiny", 40, 3, {"data.tasks": {"t2i": 1}})
    assert recipe["trainer"]["max_steps"] == recipe["trainer"]["val_check_interval"] == 40
    assert recipe["seed_everything"] == recipe["data"]["seed"] == 3
    assert recipe["data"]["tasks"] == {"t2i": 1}
    assert recipe["model"]["optimizer"]["warmup_steps"] <= 4
    callbacks = {each["class_path"].rpartition(".")[2]: each["init_args"] for each in recipe["trainer"]["callbacks"]}
    assert "ShapesEvaluation" not in callbacks
    assert callbacks["TrainingCheckpoint"]["every_n_steps"] == 10
    assert callbacks["ExportModel"] == {"publish_as": None}
    assert 0 < callbacks["ExponentialMovingAverage"]["decay"] < 1


def test_the_cells_of_c1_parse():
    from unipic2_train import cli, runner

    grid = pretrain("tiny", seeds=1, steps=20, samples=8)
    for cell in grid.cells[:3]:
        text = yaml.safe_dump(cell.recipe, sort_keys=False)
        config = runner.parse(cli.STAGES[cell.stage], ["--config", text])
        assert config.trainer.max_steps == (20 if cell.arm in {"t2i", "edit"} else 40)
        assert config.data.tasks == ({"t2i": 1, "edit": 1} if cell.arm == "joint" else {cell.arm: 1})


def test_c1_compares_equal_compute():
    """As many batches of each task on both sides, and the long arms twice that."""
    grid = pretrain("tiny", seeds=5, steps=100, samples=8)
    assert len(grid.cells) == 25
    batches = {
        cell.arm: {kind: cell.recipe["trainer"]["max_steps"] / len(cell.recipe["data"]["tasks"]) for kind in tasks}
        for cell in grid.cells
        if (tasks := cell.recipe["data"]["tasks"])
    }
    assert batches["joint"] == {"t2i": 100, "edit": 100} == {**batches["t2i"], **batches["edit"]}
    assert batches["t2i-long"] == {"t2i": 200}
    seeds = {(cell.seed, cell.recipe["model"]["kontext"]["seed"], cell.recipe["data"]["seed"]) for cell in grid.cells}
    assert seeds == {(seed, seed, seed) for seed in range(5)}


def test_some_arms_settle_some_claims():
    grid = pretrain("tiny", seeds=1, steps=10, samples=8).only(["joint", "t2i"])
    assert [cell.name for cell in grid.cells] == ["joint-seed0", "t2i-seed0"]
    assert {claim.first for claim in grid.claims} == {"t2i"}
    with pytest.raises(ValueError, match="arms: expected some of joint, t2i, got edits"):
        grid.only(["edits"])


def grid_of(cells, claims=()):
    return Grid("g", "", [], {"a": "", "b": ""}, {"m": ""}, list(claims), cells, lambda run: ({}, []))


def test_grids_that_contradict_themselves_are_refused():
    child, parent = Cell("b", 0, "pretrain", {}, "a"), Cell("a", 0, "pretrain", {})
    assert grid_of([parent, child]).seeds == [0]
    with pytest.raises(ValueError, match="b goes on from a: name both"):
        grid_of([parent, child]).only(["b"])
    with pytest.raises(ValueError, match="a-seed0 of grid g has neither a stage to run nor a model to score"):
        grid_of([Cell("a", 0, None, {})])
    for cells in ([child, parent], [parent, parent], [Cell("c", 0, "pretrain", {})]):
        with pytest.raises(ValueError, match=r"cell .* of grid g"):
            grid_of(cells)
    with pytest.raises(ValueError, match="claim 'x' of grid g names unknown arms"):
        grid_of([parent], [Claim("x", "", "m", "a", "z")])


def test_dotted_keys_become_nested():
    assert nested({"a.b": 1, "a.c": {"d": 2}, "e": 3}) == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}


def test_an_unknown_name_is_an_error():
    with pytest.raises(ValueError, match="nothing called 'pretain' can be reproduced; known: pretrain"):
        reproduce("pretain")
