"""Learning curves: means over seeds, one stage after another, and how soon an arm gains enough."""

import pytest

from unipic2_train.reproduce.curves import arm_curve, first_reach, pace_of, read_curve, started_at
from unipic2_train.reproduce.grid import Cell, Grid, Pace
from unipic2_train.reproduce.page import write_page

MEASURES = {"t2i/exact": "text-to-image", "edit/exact": "editing"}


def curve(scores, seconds=10.0):
    points = range(len(scores))
    return {
        "iterations": [2 * point for point in points],
        "images": [16 * point for point in points],
        "seconds": [seconds * point for point in points],
        "scores": {"t2i/exact": [0.1] * len(scores), "edit/exact": list(scores)},
    }


@pytest.fixture
def grid():
    cells = [
        Cell(arm, seed, "edit-rl", {}, parent)
        for seed in range(2)
        for arm, parent in (("none", None), ("slow", "none"), ("fast", "none"), ("second", "slow"))
    ]
    arms = {"none": "", "slow": "", "fast": "", "second": ""}
    paces = [Pace("edit/exact", "slow", "fast")]
    return Grid("curves", "Curves", [], arms, MEASURES, [], cells, lambda run: ({}, []), curve=read_curve, paces=paces)


@pytest.fixture
def cells(grid):
    learnt = {
        "none": [None, None],
        "slow": [curve([0.2, 0.3, 0.4], 60), curve([0.4, 0.5, 0.6], 120)],
        "fast": [curve([0.2, 0.5, 0.6]), curve([0.4, 0.5, 0.6])],
        "second": [curve([0.4, 0.4, 0.5]), curve([0.6, 0.6, 0.7])],
    }
    measured = {"prompts": ["a"], "groups": ["g"], "values": [0.5]}
    facts = {"training_seconds": 60.0, "scoring_seconds": 1.0, "date": "today", "hardware": "a machine", "mlflow": {},
             "git_revision": "abc", "versions": {}, "scores": dict.fromkeys(MEASURES, measured)}  # fmt: skip
    return {cell.name: facts | {"arm": cell.arm, "seed": cell.seed, "curve": learnt[cell.arm][cell.seed]}
            for cell in grid.cells}  # fmt: skip


def test_the_curve_of_an_arm_is_the_mean_of_its_seeds(cells):
    slow = arm_curve(cells, "slow")
    assert slow["scores"]["edit/exact"] == pytest.approx([0.3, 0.4, 0.5])
    assert slow["seconds"] == [0, 90, 180]
    assert arm_curve(cells, "none") is None


def test_a_point_that_a_seed_lacks_is_left_out(cells):
    whole = cells["slow-seed1"]["curve"]
    lacking = {name: [values[0], values[2]] for name, values in whole.items() if name != "scores"}
    lacking["scores"] = {name: [values[0], values[2]] for name, values in whole["scores"].items()}
    slow = arm_curve({**cells, "slow-seed1": {**cells["slow-seed1"], "curve": lacking}}, "slow")
    assert (slow["iterations"], slow["images"], slow["seconds"]) == ([0, 4], [0, 32], [0, 180])
    assert slow["scores"]["edit/exact"] == pytest.approx([0.3, 0.5])


def test_a_second_stage_begins_where_the_first_ends(grid, cells):
    assert started_at(grid, cells, "second") == {"iterations": 4, "images": 32, "seconds": 180}
    assert set(started_at(grid, cells, "fast").values()) == {0.0}


def test_how_soon_one_arm_gains_what_another_one_gains_in_all(cells):
    reached = pace_of(cells, Pace("edit/exact", "slow", "fast"))
    assert reached.gain == pytest.approx(0.2)
    assert reached.seconds == pytest.approx(10)  # .3 at the start, .5 after 10 s
    assert reached.share_of_seconds == pytest.approx(10 / 180)
    assert reached.share_of_images == pytest.approx(0.5)
    never = pace_of(cells, Pace("edit/exact", "fast", "second"))
    assert never.gain == pytest.approx(0.3)
    assert never[1:] == (None, None, None, None)
    assert pace_of(cells, Pace("t2i/exact", "slow", "fast")).seconds is None, "nothing was gained"
    assert pace_of(cells, Pace("edit/exact", "none", "fast")) is None


@pytest.mark.parametrize(
    ("values", "target", "place"),
    [([0, 1, 2], 0.5, 5), ([0, 1, 2], 2, 20), ([0, -1, 3], 1, 15), ([0, 1], 2, None), ([1, 0], 0.5, 0)],
)
def test_first_reach(values, target, place):
    assert first_reach([0, 10, 20][: len(values)], values, target) == place


def test_the_page_shows_how_arms_learnt(grid, cells, tmp_path):
    files = write_page(grid, cells, tmp_path, "unipic2-train reproduce curves")
    text = files[0].read_text()
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert "| slow | 4 | 32 | 3.0 | 45.00 | 0.100 -> 0.100 | 0.300 -> 0.500 |" in rows
    assert "| fast | slow | editing | 0.200 | 0.2 | 0.06 | 0.50 |" in rows
    assert "![curves](reproduce-curves-curves.png)" in text
    assert (tmp_path / "report" / "reproduce-curves-curves.png").is_file()


def test_a_run_without_a_record_has_no_curve(tmp_path):
    assert read_curve(tmp_path) is None
