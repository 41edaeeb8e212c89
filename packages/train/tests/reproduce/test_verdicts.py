"""What finished cells say: paired differences, verdicts with five seeds and none with fewer, and the page."""

import base64
import json
from dataclasses import replace

import pytest

from unipic2_evals.report import Interval
from unipic2_train.reproduce.execute import committed, run_grid
from unipic2_train.reproduce.page import write_page
from unipic2_train.reproduce.verdicts import arm_interval, compare, judge, overall


@pytest.fixture
def finished(small_grid, train, tmp_path):
    def run(seeds):
        grid = small_grid(seeds)
        run_grid(grid, tmp_path, train)
        return grid, committed(grid, tmp_path)

    return run


def test_five_seeds_settle_claims(finished):
    compared = {each.claim.name: each for each in compare(*finished(5))}
    assert {name: each.verdict for name, each in compared.items()} == {"A": "shown", "B": "shown", "C": "refuted"}
    # Seeds and prompts are the same for both arms, so nothing is left of their noise.
    assert compared["A"].difference[:3] == pytest.approx((0.2, 0.2, 0.2))
    assert compared["B"].difference[:3] == pytest.approx((0.0, 0.0, 0.0))


def test_a_claim_is_what_its_parts_are(finished):
    compared = compare(*finished(5))
    assert overall(compared) == {"C0": "shown"}
    for verdict, whole in (("refuted", "refuted"), ("not shown", "not shown"), ("no verdict: 1 of 5 seeds",) * 2):
        assert overall([replace(compared[0], verdict=verdict), *compared[1:]]) == {"C0": whole}


def test_four_seeds_settle_nothing(finished):
    compared = compare(*finished(4))
    assert {each.verdict for each in compared} == {"no verdict: 4 of 5 seeds"}
    assert all(each.difference is not None for each in compared)


def test_arms_have_the_spread_of_their_seeds(finished):
    grid, cells = finished(5)
    interval = arm_interval(grid, cells, "base", "exact")
    assert interval.low < 0.3 < interval.high
    assert interval.high - interval.low > 0.02
    assert arm_interval(grid, cells, "base", "exact", "hard").total == 5 * 10
    assert arm_interval(grid, {}, "base", "exact") is None


@pytest.mark.parametrize(
    ("low", "high", "margin", "verdict"),
    [
        (0.01, 0.1, None, "shown"),
        (-0.01, 0.1, None, "not shown"),
        (-0.1, -0.01, None, "refuted"),
        (-0.01, 0.1, 0.02, "shown"),
        (-0.03, 0.1, 0.02, "not shown"),
        (-0.1, -0.03, 0.02, "refuted"),
    ],
)
def test_verdicts(low, high, margin, verdict):
    interval = Interval((low + high) / 2, low, high, 100)
    assert judge(interval, margin, 5) == verdict
    assert judge(interval, margin, 4) == "no verdict: 4 of 5 seeds"
    assert judge(None, margin, 5) == "no verdict: 5 of 5 seeds"


def test_only_seeds_that_both_arms_have_are_compared(finished):
    grid, cells = finished(2)
    del cells["better-seed1"]
    compared = {each.claim.name: each.seeds for each in compare(grid, cells)}
    assert compared == {"A": 1, "B": 2, "C": 1}


def test_other_prompts_are_refused(finished):
    grid, cells = finished(2)
    cells["base-seed1"]["scores"]["exact"]["prompts"] = ["another"] * 40
    with pytest.raises(ValueError, match="base-seed1 was scored on other prompts of exact than seed 0: run it again"):
        compare(grid, cells)


def test_the_page_says_all_of_it_twice(finished, tmp_path):
    grid, cells = finished(5)
    cells["base-seed0"]["mlflow"] = {"run_id": "a" * 32, "experiment_id": "7", "server": "http://tracking:5000"}
    files = write_page(grid, cells, tmp_path, "unipic2-train reproduce test")
    assert {file.name for file in files} >= {"reproduce-test.md", "reproduce-test.html", "reproduce-test-arms.png"}
    text, page = (file.read_text() for file in files[:2])
    for said in (
        "# A test",
        "Designed so.",
        "C0: shown.",
        "| C0: A better is better",
        "| C base is better than",
        "shown",
        "refuted",
        "0.200 [0.200, 0.200]",
    ):
        assert said in text
    assert f"[aaaaaaaa](http://tracking:5000/#/experiments/7/runs/{'a' * 32})" in text
    assert f'<a href="http://tracking:5000/#/experiments/7/runs/{"a" * 32}">aaaaaaaa</a>' in page
    assert "![differences](reproduce-test-differences.png)" in text
    assert base64.b64encode((tmp_path / "report" / "reproduce-test-differences.png").read_bytes()).decode() in page
    assert str(tmp_path) not in text, "no paths of this machine"
    summary = json.loads(files[2].read_text())
    assert [claim["verdict"] for claim in summary["claims"]] == ["shown", "shown", "refuted"]
    assert len(summary["runs"]) == 15


def test_a_page_of_half_a_grid_says_so(finished, tmp_path):
    grid, cells = finished(1)
    some = {name: cells[name] for name in ("base-seed0", "better-seed0")}
    text = write_page(grid, some, tmp_path, "x")[0].read_text()
    assert "Not complete: 1 of 3 cells are missing." in text
    assert "none yet" in text
