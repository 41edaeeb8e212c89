"""ShapesBench's folder: what is there, what is missing, the sanity rows, and that the rules get what they take."""

import json

import pytest

from unipic2_evals.answers import Answers, JudgeId
from unipic2_evals.cli import score as score_command
from unipic2_evals.compare import compare_reports
from unipic2_evals.judges import model_asker
from unipic2_evals.runs import Options
from unipic2_evals.runs.shapes import ShapesRun
from unipic2_evals.score_files import read_report, score_table, write_report
from unipic2_evals.scoring import score_run
from unipic2_evals.shapesbench import copy_suite, write_reconstructions

EYES = JudgeId("eyes", "1")
RIGHT = ["B", "A", "D", "C"]


@pytest.fixture
def folder(world, tmp_path):
    items = copy_suite(world.suite(tmp_path / "suite"), tmp_path / "out")
    world.make(tmp_path / "out", items, replies=RIGHT)
    return tmp_path / "out"


@pytest.fixture
def report(world, tmp_path):
    def scored(folder, **options):
        asker = model_asker(EYES, detector=world.detect)
        policy = options.pop("missing", "error")
        return score_run(
            ShapesRun(folder, Options(**options)), Answers(tmp_path / "a.jsonl"), EYES, policy, asker=asker
        )

    return scored


def values(report):
    return {row["name"]: row["value"] for row in report["scores"]}


def test_a_perfect_model(folder, report):
    found = values(report(folder))
    assert found["t2i overall"] == found["t2i exact scene"] == found["t2i held out, pair"] == 1
    assert found["edit overall"] == found["edit action"] == found["edit held out, many"] == 5
    assert found["edit O (GEdit)"] == 10
    assert found["qa overall"] == found["qa color"] == 1


def test_sanity_rows_are_there_whatever_the_model(folder, report, world):
    found = values(report(folder))
    assert found["sanity, t2i: oracle"] == found["sanity, qa: oracle"] == 1
    assert found["sanity, t2i: random"] == 0
    assert found["sanity, edit: oracle"] == 5
    assert found["sanity, edit: copy-source"] == found["sanity, edit: random"] == 1
    absent = found["sanity, edit: oracle through VAE (no vae.png)"]
    assert absent != absent  # not a number: the row says why
    write_reconstructions(folder, lambda images: images)
    again = report(folder)
    assert values(again)["sanity, edit: oracle through VAE"] == 5
    assert "no vae.png" not in score_table(again)


def test_a_model_that_copies(world, tmp_path, report):
    items = copy_suite(world.suite(tmp_path / "suite"), tmp_path / "out")
    world.make(tmp_path / "out", items, picture="source")
    found = values(report(tmp_path / "out"))
    assert found["edit overall"] == 1
    assert found["edit copies the source"] == 1
    assert found["edit preservation"] == 5  # as measured; the item's score lowers it to the compliance
    assert "qa overall" not in found  # nothing was answered at all


def test_missing_pictures_and_replies(folder, report):
    (folder / "edit/item-2/00000.png").unlink()
    (folder / "t2i/item-0/00002.png").unlink()
    with pytest.raises(ValueError, match=r"2 of 16 items are missing \(item-0/2: no t2i/item-0/00002.png\)"):
        report(folder)
    found = values(report(folder, missing="zero"))
    assert found["edit overall"] == 2.5
    assert found["t2i overall"] == 0.75
    assert values(report(folder, missing="drop"))["edit overall"] == 5


def test_wrong_replies_count_once_for_all_rotations(folder, report):
    (folder / "qa/item-5/replies.json").write_text(json.dumps(["B", "A", "D", "D"]))
    found = values(report(folder))
    assert (found["qa overall"], found["qa vanilla"]) == (0, 1)


def test_report_survives_its_file_and_is_compared(folder, report, tmp_path):
    first = report(folder)
    write_report(first, tmp_path / "scores")
    again = read_report(tmp_path / "scores")
    assert again["settings"]["scored"] == "text-to-image, editing, understanding"
    differences = compare_reports(again, again).differences
    assert {row.difference.mean for row in differences} == {0}


def test_refused(folder, report):
    with pytest.raises(ValueError, match="--sources means nothing to shapes"):
        ShapesRun(folder, Options(sources=folder))
    for path in (*folder.rglob("0*.png"), *folder.rglob("replies.json")):
        path.unlink()
    with pytest.raises(ValueError, match="nothing was made of the suite"):
        report(folder)


def test_command_line(folder, report, tmp_path):
    report(folder)
    text = score_command("shapes", folder, answers=tmp_path / "a.jsonl", missing="error")
    assert "edit overall" in text
    assert "16 expected, 16 scored" in text
