"""MMBench from a file: rotations belong together, pictures are shared, a model is asked and scored."""

import base64
import io

import pytest
from PIL import Image

from unipic2_evals.answers import Answers, JudgeId
from unipic2_evals.judges import model_asker
from unipic2_evals.runs import Options
from unipic2_evals.runs.mmbench import MMBenchRun
from unipic2_evals.scoring import score_run

MODEL = JudgeId("model", "7")
HEAD = "index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\timage\n"


def _image(red):
    file = io.BytesIO()
    Image.new("RGB", (2, 2), (red, 0, 0)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture
def run(tmp_path):
    rows = [
        f"1\tWhat is it?\t\tcat\tdog\t\t\tA\tanimals\t{_image(1)}",
        f"2\tWhich colour?\tlook up\tred\tblue\t\t\tB\tcolours\t{_image(2)}",
        "1000001\tWhat is it?\t\tdog\tcat\t\t\tB\tanimals\t1",
        f"1000002\tWhich colour?\tlook up\tblue\tred\t\t\tA\tcolours\t{_image(2)}",
    ]
    (tmp_path / "mmbench.tsv").write_text(HEAD + "\n".join(rows) + "\n")
    return MMBenchRun(tmp_path, Options(data=tmp_path / "mmbench.tsv"))


def test_questions(run):
    first, second = run.items()
    assert (first.key, first.group, len(first.requests)) == ("1", "animals", 2)
    assert second.requests[0].text == (
        "Hint: look up\nQuestion: Which colour?\nOptions:\nA. red\nB. blue\n"
        "Please select the correct answer from the options above. \n"
    )
    assert [request.pictures[0].pixels()[0, 0, 0] for request in first.requests] == [1, 1]


def test_model_is_asked_and_scored(run, tmp_path):
    def always_a(images, question):
        return "A"

    answers = Answers(tmp_path / "answers.jsonl")
    report = score_run(run, answers, MODEL, asker=model_asker(MODEL, judge=always_a))
    values = {row["name"]: row["value"] for row in report["scores"]}
    assert values == {"animals": 0, "colours": 0, "vanilla": 0.5, "overall": 0}
    assert report["scores"][0]["judge"] == "rules"
    assert report["answered_by"] == "model (7)"

    def right(images, question):
        return "cat" if "What" in question else "It is blue"

    other = JudgeId("other", "1")
    report = score_run(run, answers, other, asker=model_asker(other, judge=right))
    assert {row["name"]: row["value"] for row in report["scores"]}["overall"] == 1


def test_unusable_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="mmbench: --data is missing"):
        MMBenchRun(tmp_path, Options())
    for rows, message in (
        (f"1\tq\t\tcat\tdog\t\t\t\tx\t{_image(1)}\n", r"answer '' is none of its options \['A', 'B'\]; the test split"),
        (f"1\tq\t\tcat\tdog\t\t\tA\tx\t{_image(1)}\n" * 2, "line 3: index 1 occurs twice"),
        ("1\tq\t\tcat\tdog\t\t\tA\tx\t99\n", "row of index 99: expected a mapping"),
    ):
        (tmp_path / "m.tsv").write_text(HEAD + rows)
        with pytest.raises(ValueError, match=message):
            MMBenchRun(tmp_path, Options(data=tmp_path / "m.tsv")).items()
