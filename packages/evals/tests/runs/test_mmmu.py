"""MMMU from a file: the words of lmms-eval, both variants of the rules, official numbers."""

import json

import pytest
from PIL import Image

from unipic2_evals import mmmu
from unipic2_evals.answers import Answers, JudgeId
from unipic2_evals.judges import model_asker
from unipic2_evals.runs import Options
from unipic2_evals.runs.mmmu import MMMURun
from unipic2_evals.scoring import score_run

MODEL = JudgeId("model", "7")


@pytest.fixture
def make(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "p.png")
    rows = [
        {
            **{"id": f"validation_{subject}_{number}", "question": f"What is <image 1>? {number}", "image_1": "p.png"},
            **{"options": "['cat', \"dog's\"]", "answer": "B", "question_type": "multiple-choice", "image_2": None},
        }
        for subject, count in (("Art", 3), ("Art_Theory", 1))
        for number in range(count)
    ]
    open_question = {**rows[0], "id": "validation_Art_9", "question": "How many?", "options": "[]"}
    rows.append({**open_question, "answer": "['42', 'forty-two']", "question_type": "open"})
    (tmp_path / "mmmu.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return lambda **options: MMMURun(tmp_path, Options(data=tmp_path / "mmmu.jsonl", **options))


def _score(run, tmp_path, reply):
    answers = Answers(tmp_path / "answers.jsonl")
    return score_run(run, answers, MODEL, asker=model_asker(MODEL, judge=reply))


def _values(report):
    return {row["name"]: row["value"] for row in report["scores"]}


def test_questions(make):
    items = make().items()
    assert items[0].requests[0].text == (
        "What is <image 1>? 0\nA. cat\nB. dog's\n\nAnswer with the option's letter from the given choices directly."
    )
    assert items[4].requests[0].text == "How many?\n\nAnswer the question using a single word or phrase."
    assert [item.group for item in items] == ["Art", "Art", "Art", "Art_Theory", "Art"]
    assert len(items[0].requests[0].pictures) == 1


def test_variants_and_quirks(make, tmp_path):
    def reply(images, question):
        return "42" if "How" in question else "B"

    official = _score(make(), tmp_path, reply)
    assert _values(official) == {"Art": 0.75, "Art_Theory": 1, "overall": 0.8}  # the open question is never right
    assert _values(_score(make(official=False), tmp_path, reply))["overall"] == 1
    other = _score(make(variant="vlmevalkit"), tmp_path, reply)
    assert other["settings"] == {"variant": "vlmevalkit"}
    assert other["scores"][0]["revision"] != official["scores"][0]["revision"]


def test_guesses_are_those_of_the_official_evaluation(make, tmp_path):
    run = make()
    report = _score(run, tmp_path, lambda images, question: "no idea")
    questions = [{**item.about, "response": "no idea"} for item in run.items()]
    expected = mmmu.instance_level_accuracy(mmmu.evaluate(questions))
    assert _values(report)["overall"] == expected
    mean = sum(row["values"]["correct"] for row in report["items"]) / len(report["items"])
    assert mean == pytest.approx(expected)
    assert _score(run, tmp_path, None) == report  # again, with the same run


def test_unusable_files_are_refused(make, tmp_path):
    with pytest.raises(ValueError, match="mmmu: --data is missing"):
        MMMURun(tmp_path, Options())
    row = json.loads((tmp_path / "mmmu.jsonl").read_text().splitlines()[0])
    for changes, message in (
        ({"answer": "?"}, "no answer; take the validation"),
        ({"options": "A, B"}, "options of .*"),
    ):
        (tmp_path / "mmmu.jsonl").write_text(json.dumps({**row, **changes}) + "\n")
        with pytest.raises(ValueError, match=message):
            make().items()
