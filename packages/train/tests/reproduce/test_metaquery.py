"""The grid of the joint stage: arms differ in what they are called by, and start from the same models."""

import pytest
import yaml

from unipic2_train.reproduce.metaquery import JOINT, metaquery


@pytest.fixture(scope="module")
def grid():
    return metaquery("tiny", seeds=2, steps=40, samples=8)


@pytest.fixture(scope="module")
def cells(grid):
    return {cell.name: cell for cell in grid.cells}


def without(recipe, *dotted):
    """Return a recipe without some keys."""
    copied = yaml.safe_load(yaml.safe_dump(recipe))
    for key in dotted:
        *parents, last = key.split(".")
        place = copied
        for part in parents:
            place = place[part]
        place.pop(last, None)
    return copied


@pytest.mark.parametrize("arm", JOINT)
def test_joint_arms_differ_in_one_key(cells, arm):
    recipe, whole = cells[f"{arm}-seed1"].recipe, cells["both-seed1"].recipe
    assert {key: recipe["model"][key.removeprefix("model.")] for key in JOINT[arm]} == JOINT[arm]
    assert without(recipe, *JOINT[arm]) == whole
    assert (whole["data"]["seed"], whole["model"]["metaquery"]["seed"], whole["trainer"]["max_steps"]) == (1, 1, 40)


def test_kontext_is_trained_on_as_the_joint_arms_are(cells):
    kontext, joint = cells["kontext-seed0"].recipe, cells["both-seed0"].recipe
    assert kontext["model"]["kontext"]["init"] == "checkpoint"
    assert kontext["model"]["kontext"]["checkpoint"] == joint["model"]["metaquery"]["checkpoint"]
    assert kontext["model"]["kontext"]["sampling"] == joint["model"]["metaquery"]["sampling"]
    assert kontext["model"]["optimizer"] == joint["model"]["optimizer"]
    assert kontext["data"] == joint["data"]
    assert kontext["trainer"] == joint["trainer"]


def test_what_is_not_trained_differs_by_its_noise(cells):
    seeds = {
        name: next(iter(cell.recipe["model"].values()))["sampling"]["seed"]
        for name, cell in cells.items()
        if cell.stage is None
    }
    assert seeds == {f"{arm}-seed{seed}": seed for seed in range(2) for arm in ("t2i", "aligned", "aligned-empty")}
    aligned, empty = cells["aligned-seed0"], cells["aligned-empty-seed0"]
    assert aligned.model == empty.model == "home:tiny/connector"
    assert empty.recipe == {**aligned.recipe, "empty_prompts": True}


def test_each_claim_of_the_report_has_its_parts(grid):
    parts = [claim.part_of for claim in grid.claims]
    assert (parts.count("C2"), parts.count("C3"), parts.count("")) == (3, 4, 4)
    assert {(claim.first, claim.second) for claim in grid.claims if claim.part_of == "C2"} == {
        ("vlm", "dit"),
        ("vlm", "both"),
        ("dit", "both"),
    }


@pytest.mark.parametrize("name", ["vlm-seed0", "transformer-seed1", "kontext-seed0"])
def test_recipes_parse(cells, name):
    from unipic2_train import cli, runner

    cell = cells[name]
    runner.parse(cli.STAGES[cell.stage], ["--config", yaml.safe_dump(cell.recipe, sort_keys=False)])
