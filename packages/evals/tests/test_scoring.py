"""The whole way from a folder to a table: counts, policies, intervals, whose judgement."""

import json

import pytest
from PIL import Image

from unipic2_evals.answers import Answers, Asker, CallError, JudgeId
from unipic2_evals.report import bootstrap_interval, wilson_interval
from unipic2_evals.runs import Options
from unipic2_evals.runs.geneval import GenEvalRun
from unipic2_evals.runs.imgedit import ImgEditRun
from unipic2_evals.scoring import score_run

JUDGE = JudgeId("eyes", "r1")
DOG = {"objects": {"dog": [[0, 0, 9, 9, 0.99]]}, "colors": {}}
NOTHING = {"objects": {}, "colors": {}}


@pytest.fixture
def folder(tmp_path):
    """Three prompts of two tags with two images each; red value = 10 * prompt + sample."""
    for prompt in range(3):
        samples = tmp_path / "out" / f"{prompt:05}" / "samples"
        samples.mkdir(parents=True)
        tag = "two_object" if prompt == 2 else "single_object"
        metadata = {"tag": tag, "include": [{"class": "dog", "count": 1}], "prompt": f"dog {prompt}"}
        (samples.parent / "metadata.jsonl").write_text(json.dumps(metadata))
        for number in range(2):
            Image.new("RGB", (4, 4), (10 * prompt + number, 0, 0)).save(samples / f"{number}.png")
    return tmp_path / "out"


def _asker(wrong=(), broken=()):
    def ask(request):
        red = int(request.pictures[0].pixels()[0, 0, 0])
        if red in broken:
            raise CallError("the model is down")
        return NOTHING if red in wrong else DOG

    return Asker(JUDGE, frozenset({"detections"}), ask)


def _scores(report):
    return {row["name"]: row for row in report["scores"]}


def test_table(folder, tmp_path):
    run = GenEvalRun(folder, Options(samples=2))
    report = score_run(run, Answers(tmp_path / "a.jsonl"), JUDGE, asker=_asker(wrong={0, 1, 20}))
    rows = _scores(report)
    assert {name: row["value"] for name, row in rows.items()} == {
        "single_object": 0.5,
        "two_object": 0.5,
        "images": 0.5,
        "overall": 0.5,
    }
    expected = bootstrap_interval([0, 0, 1, 1], ["p", "p", "q", "q"])
    assert (rows["single_object"]["low"], rows["single_object"]["high"]) == (expected.low, expected.high) == (0, 1)
    for row in report["scores"]:
        assert (row["judge"], row["revision"], row["official"]) == ("eyes", "r1", True)
        assert row["quirks"] == list(run.quirks)
    assert report["counts"] == {"expected": 6, "scored": 6, "missing": 0, "unanswered": 0, "failed": 0}
    again = score_run(run, Answers(tmp_path / "a.jsonl"), JUDGE)  # nobody is asked
    assert again == report


def test_prompts_with_one_image_get_wilsons_interval(folder, tmp_path):
    for path in folder.glob("*/samples/1.png"):
        path.unlink()
    report = score_run(
        GenEvalRun(folder, Options(samples=1)), Answers(tmp_path / "a.jsonl"), JUDGE, asker=_asker(wrong={0})
    )
    row = _scores(report)["images"]
    assert (row["value"], row["low"], row["high"], row["total"]) == wilson_interval(2, 3)


def test_policies_for_missing_images(folder, tmp_path):
    (folder / "00000/samples/0.png").unlink()
    run, answers = GenEvalRun(folder, Options(samples=2)), Answers(tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match=r"1 of 6 items are missing \(00000/0: .*\); count them .* --missing zero"):
        score_run(run, answers, JUDGE, asker=_asker())
    zero = _scores(score_run(run, answers, JUDGE, missing="zero"))["single_object"]
    dropped = _scores(score_run(run, answers, JUDGE, missing="drop"))["single_object"]
    assert (zero["value"], zero["total"], zero["missing"]) == (0.75, 4, 1)
    assert (dropped["value"], dropped["total"], dropped["missing"]) == (1.0, 3, 1)


def test_unanswered_images_are_never_zero(folder, tmp_path):
    run, answers = GenEvalRun(folder, Options(samples=2)), Answers(tmp_path / "a.jsonl")
    for policy in ("error", "zero"):
        with pytest.raises(ValueError, match=r"1 of 6 items have no answer of eyes \(r1\) .*the model is down"):
            score_run(run, answers, JUDGE, missing=policy, asker=_asker(broken={21}))
    report = score_run(run, answers, JUDGE, missing="drop")
    assert report["counts"]["unanswered"] == 1
    assert _scores(report)["two_object"]["total"] == 1


def test_nothing_to_score(folder, tmp_path):
    with pytest.raises(ValueError, match="nothing to score: 6 unanswered"):
        score_run(GenEvalRun(folder, Options(samples=2)), Answers(tmp_path / "a.jsonl"), JUDGE, missing="drop")


@pytest.fixture
def edits(tmp_path):
    meta = {key: {"id": "s.png", "prompt": key, "edit_type": kind} for key, kind in zip("123", "aab", strict=True)}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    (tmp_path / "prompts.json").write_text(json.dumps({"a": "<edit_prompt>", "b": "<edit_prompt>"}))
    for name in ("s", "1", "2", "3"):
        Image.new("RGB", (4, 4), (len(name), ord(name), 0)).save(tmp_path / f"{name}.png")
    return ImgEditRun(tmp_path, Options(True, tmp_path / "meta.json", tmp_path, tmp_path / "prompts.json"))


def test_policies_for_failed_answers(edits, tmp_path):
    replies = {"1": "X: 4", "2": "lovely", "3": "X: 2"}
    asker = Asker(JUDGE, frozenset({"reply"}), lambda request: replies[request.text])
    answers = Answers(tmp_path / "a.jsonl")
    dropped = _scores(score_run(edits, answers, JUDGE, asker=asker))
    assert {name: row["value"] for name, row in dropped.items()} == {
        "a": 4,
        "b": 2,
        "sample_mean_failures_zero": 2,
        "sample_mean": 3,
        "macro": 3,
    }
    assert dropped["a"]["failed"] == 1
    zero = _scores(score_run(edits, answers, JUDGE, failed="zero"))
    assert (zero["a"]["value"], zero["macro"]["value"]) == (2, 2)
    with pytest.raises(ValueError, match=r"1 of 3 items have failed \(2: no scores in the reply about 2: 'lovely'\)"):
        score_run(edits, answers, JUDGE, failed="error")
