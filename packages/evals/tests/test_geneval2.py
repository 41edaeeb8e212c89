"""GenEval 2's layout: what is written is read again, and malformed files are refused."""

import json

import pytest

from unipic2_evals import geneval2

ROWS = [
    {
        "prompt": f"{number} red\u2028cups",  # a line separator within a prompt does not end the line of the file
        "atom_count": 3,
        "vqa_list": [["How many cups are in the image?", number], ["Are the cups red?", "Yes"]],
        "skills": ["count", "attribute"],
    }
    for number in ("two", "three")
]


def _benchmark(folder, rows):
    path = folder / "geneval2_data.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def prompts(tmp_path):
    return geneval2.read_prompts(_benchmark(tmp_path, ROWS))


def test_prompts(prompts):
    assert [prompt.prompt for prompt in prompts] == [row["prompt"] for row in ROWS]
    assert prompts[0].vqa_list[0] == ("How many cups are in the image?", "two")
    assert (prompts[1].atom_count, prompts[1].skills) == (3, ("count", "attribute"))


def test_image_paths_round_trip(prompts, tmp_path):
    images = {prompt.prompt: tmp_path / geneval2.output_path(index) for index, prompt in enumerate(prompts)}
    path = tmp_path / geneval2.IMAGE_PATHS
    geneval2.write_image_paths(path, images)
    written = json.loads(path.read_text())
    assert list(written) == [row["prompt"] for row in ROWS]  # the official mapping: prompt to path
    assert geneval2.read_image_paths(path, prompts) == [tmp_path / "images/00000.png", tmp_path / "images/00001.png"]


def test_relative_image_paths_start_at_the_file(prompts, tmp_path):
    path = tmp_path / "paths.json"
    path.write_text(json.dumps({row["prompt"]: "a.png" for row in ROWS}))
    assert geneval2.read_image_paths(path, prompts) == [tmp_path / "a.png"] * 2


def test_score_lists_round_trip(prompts, tmp_path):
    path = tmp_path / "score_lists.json"
    geneval2.write_score_lists(path, [[0.5, 1], [0, 0.25]], prompts)
    assert json.loads(path.read_text()) == [[0.5, 1], [0, 0.25]]
    assert geneval2.read_score_lists(path, prompts) == [[0.5, 1], [0, 0.25]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "expected one prompt a line, found none"),
        ([ROWS[0], ROWS[0]], "line 2: the prompt occurs twice"),
        ([{**ROWS[0], "skills": ["count"]}], "a skill for each, got 2 entries and 1 skills"),
        ([{**ROWS[0], "vqa_list": [["How many?"], ["Red?"]]}], "vqa_list of .*: expected a list with 2 or more"),
        ([{"prompt": "x"}], "line 1: no 'vqa_list' among its fields"),
        (["text"], "line 1: expected a mapping"),
    ],
)
def test_malformed_benchmark_is_refused(rows, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        geneval2.read_prompts(_benchmark(tmp_path, rows))


def test_missing_image_is_named(prompts, tmp_path):
    path = tmp_path / "paths.json"
    path.write_text(json.dumps({ROWS[0]["prompt"]: "a.png"}))
    with pytest.raises(ValueError, match="1 of 2 prompts have no image, for example 'three red"):
        geneval2.read_image_paths(path, prompts)
    path.write_text("{")
    with pytest.raises(ValueError, match="no JSON"):
        geneval2.read_image_paths(path, prompts)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([[1, 1]], "one list for each of 2 prompts, got 1"),
        ([[1, 1], [1]], "expected 2 scores from 0 to 1"),
        ([[1, 1], [1, 1.5]], "expected 2 scores from 0 to 1"),
        ([[1, 1], None], "expected a list"),
    ],
)
def test_unusable_scores_are_refused(scores, message, prompts, tmp_path):
    with pytest.raises(ValueError, match=message):
        geneval2.write_score_lists(tmp_path / "scores.json", scores, prompts)
