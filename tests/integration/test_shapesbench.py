"""From a data set of the full shapes world to a table of ShapesBench, by the detector that data registers."""

import shutil

import pytest

from unipic2_data.shapes.full.world import write_full_world
from unipic2_data.shapes.suite import write_suite
from unipic2_data.shapes.world import ShapesConfig
from unipic2_evals.answers import Answers
from unipic2_evals.judges import find_judge
from unipic2_evals.protocols import detectors
from unipic2_evals.runs import Options
from unipic2_evals.runs.shapes import ShapesRun
from unipic2_evals.scoring import score_run
from unipic2_evals.shapesbench import copy_suite, output_path, write_replies
from unipic2_evals.shapesbench.rules import right_letters

DETECTOR = "shapes-full-b"
COUNTS = {"test": {"t2i": 24, "edit": 27, "qa": 12}, "heldout": {"t2i": 10, "edit": 10, "qa": 10}}


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapesbench")
    write_suite(write_full_world(folder / "world", ShapesConfig(64, 5, COUNTS)), folder / "suite")
    return folder / "suite"


@pytest.mark.slow
def test_the_truth_is_exact_in_every_category_and_axis(suite, tmp_path):
    assert {"shapes-full-a", DETECTOR} <= set(detectors())
    for item in copy_suite(suite, tmp_path / "out"):
        paths = output_path(item.kind, item.key)
        if item.kind == "qa":
            write_replies(tmp_path / "out", item, right_letters(item))
        else:
            shutil.copyfile(tmp_path / "out" / paths["target"], tmp_path / "out" / paths["image"])
    answers = Answers(tmp_path / "answers.jsonl")
    judge, asker = find_judge(DETECTOR, answers)
    report = score_run(ShapesRun(tmp_path / "out", Options(samples=1)), answers, judge, asker=asker)
    found = {row["name"]: row["value"] for row in report["scores"]}
    wanted = {"t2i": 1, "edit": 5, "qa": 1}
    for name, value in found.items():
        kind = name.split(" ")[0]
        if kind in wanted and not name.endswith(("(GEdit)", "copies the source", "exact scene")):
            assert value == pytest.approx(wanted[kind], rel=0.02), name
    assert found["edit exact scene"] >= 0.95
    assert found["sanity, edit: copy-source"] == 1
    assert found["sanity, edit: text-only generator"] < 1.5
    assert found["sanity, edit: random"] < 1.2
    axes = {name for name in found if "held out" in name}
    assert len(axes) == 15  # five axes of each kind
