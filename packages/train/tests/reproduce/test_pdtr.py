"""Grids of reinforcement: shared prefixes, equal compute, other noise in second stages, recipes that parse."""

import pytest
import yaml

from unipic2_train import recipes
from unipic2_train.reproduce.pdtr import pdtr
from unipic2_train.reproduce.rl_presets import rl_presets

STAGES = {
    "none": [],
    "none-guided": [],
    "edit": ["edit"],
    "t2i": ["t2i"],
    "edit-t2i": ["edit", "t2i"],
    "t2i-edit": ["t2i", "edit"],
    "mixed": ["edit", "t2i"],
    "edit-edit": ["edit", "edit"],
    "t2i-t2i": ["t2i", "t2i"],
}


@pytest.fixture(scope="module")
def cells():
    return {cell.name: cell for cell in pdtr("tiny", seeds=2, steps=20, samples=8).cells}


def lineage(cells, cell):
    """Return a cell and all that it goes on from, the first one first."""
    earlier = [] if cell.parent is None else lineage(cells, cells[f"{cell.parent}-seed{cell.seed}"])
    return [*earlier, cell]


def test_arms_are_what_they_are_called(cells):
    assert [cell.arm for cell in cells.values() if cell.seed == 0] == list(STAGES)
    for cell in cells.values():
        trained = [each for each in lineage(cells, cell) if each.stage not in (None, "pretrain")]
        tasks = [task for each in trained for task in each.recipe["data"]["tasks"]]
        assert tasks == STAGES[cell.arm], cell.name
        assert lineage(cells, cell)[0].name == f"none-seed{cell.seed}"
        prompts = [each.recipe["data"].get("prompts") for each in trained if "t2i" in each.recipe["data"]["tasks"]]
        assert all(prompts), "text-to-image is reinforced on its recipe's prompts, alone and mixed"


def test_what_two_stages_share_runs_once(cells):
    assert len(cells) == 2 * len(STAGES)
    assert [cells[f"{arm}-seed1"].parent for arm in ("edit-t2i", "edit-edit")] == ["edit"] * 2
    assert [cells[f"{arm}-seed1"].parent for arm in ("t2i-edit", "t2i-t2i")] == ["t2i"] * 2


def test_arms_of_two_stages_have_equal_compute(cells):
    for arm in ("edit-t2i", "t2i-edit", "mixed", "edit-edit", "t2i-t2i"):
        trained = [each for each in lineage(cells, cells[f"{arm}-seed0"]) if each.stage not in (None, "pretrain")]
        assert sum(each.recipe["trainer"]["max_steps"] for each in trained) == 40, arm
        assert len({each.recipe["data"]["global_batch"] for each in trained}) == 1


def test_a_second_stage_has_noise_and_order_of_its_own(cells):
    def seeds(arm):
        recipe = cells[f"{arm}-seed1"].recipe
        return {recipe["model"]["rl"]["seed"], recipe["data"]["seed"], recipe["model"]["kontext"]["seed"]}

    assert seeds("edit") == seeds("mixed") == {1}
    assert seeds("edit-edit") == seeds("edit-t2i") == {1001}


def test_all_are_sampled_as_the_rollouts_but_the_guided_start(cells):
    trained = [cell.recipe["model"] for cell in cells.values() if cell.stage]
    sampling = [model["kontext"]["sampling"] for model in trained]
    rollouts = [model["rl"]["rollout"] for model in trained if "rl" in model]
    assert all(each == sampling[0] for each in sampling)
    assert all(all(each[key] == value for key, value in sampling[0].items()) for each in rollouts)
    own = recipes.resolve("pretrain/demo")["model"]["kontext"]["sampling"]
    assert cells["none-guided-seed0"].recipe["model"]["kontext"]["sampling"] == own
    assert own["guidance"] > sampling[0]["guidance"] == 1
    assert own["steps"] > sampling[0]["steps"]


@pytest.mark.parametrize("name", ["mixed-seed0", "edit-t2i-seed0"])
def test_recipes_parse_and_draw_their_curve(cells, name):
    from unipic2_train import cli, runner

    cell = cells[name]
    config = runner.parse(cli.STAGES[cell.stage], ["--config", yaml.safe_dump(cell.recipe, sort_keys=False)])
    assert config.trainer.num_sanity_val_steps == -1, "a point before the first iteration"
    assert config.trainer.val_check_interval * 4 == config.trainer.max_steps
    assert config.trainer.limit_test_batches == 0
    scorers = [each.init_args for each in config.trainer.callbacks if each.class_path.endswith("ShapesEvaluation")]
    assert [each.validation_samples for each in scorers] == [80]
    assert set(config.data.tasks) == set(STAGES[cell.arm]) if cell.arm == "mixed" else {"t2i"}


def test_presets_differ_in_the_algorithm_alone():
    cells = {cell.arm: cell.recipe for cell in rl_presets("tiny", seeds=1, steps=20, samples=8).cells}
    fast, faithful, nft = (cells[f"edit-{name}"]["model"]["rl"] for name in ("fast", "faithful", "nft"))
    assert [fast["algorithm"], faithful["algorithm"], nft["algorithm"]] == ["grpo", "grpo", "nft"]
    assert [fast["rollout"]["dynamics"], faithful["rollout"]["dynamics"]] == ["cps", "flow_sde"]
    assert fast["rollout"]["guidance"] == nft["rollout"]["guidance"] == 1
    sampled = cells["edit-faithful"]["model"]["kontext"]["sampling"]["guidance"]
    assert (
        faithful["rollout"]["guidance"] == sampled == cells["none-guided"]["model"]["kontext"]["sampling"]["guidance"]
    )
    assert faithful["grpo"]["clip"] == pytest.approx(16e-4)
    for one, other in (("edit-fast", "edit-faithful"), ("t2i-fast", "t2i-nft")):
        for part in ("optimizer", "rewards", "guards"):
            assert cells[one]["model"][part] == cells[other]["model"][part]
        assert cells[one]["data"] == cells[other]["data"]


def test_paces_and_claims_go_with_their_arms():
    grid = rl_presets("debug", seeds=1, steps=4, samples=4)
    assert {
        (pace.arm, pace.reference) for pace in grid.only(["none", "edit-nft", "none-guided", "edit-faithful"]).paces
    } == {("edit-nft", "edit-faithful")}
    assert grid.only(["none", "edit-fast"]).paces == []


def test_a_preset_without_a_start_is_refused():
    with pytest.raises(ValueError, match="preset 'sd35m' has no declared start; known: tiny, debug"):
        pdtr("sd35m", seeds=1, steps=4, samples=4)
