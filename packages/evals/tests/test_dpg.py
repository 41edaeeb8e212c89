"""DPG-Bench's rules: the official worked cases, their quirks, and what must hold for any graph."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unipic2_evals import dpg

CASES = json.loads((Path(__file__).parents[3] / "tests/golden/dpg/cases.json").read_text())["cases"]
HEADER = "item_id,proposition_id,dependency,tuple,question_natural_language\n"


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_official_case(case, agree):
    function = getattr(dpg, case["function"])
    result = function(case["input"]) if case["function"] == "aggregate" else function(**case["input"])
    assert agree(result, case["expected"])


def test_every_function_has_a_case():
    functions = {name for name in dpg.__all__ if callable(getattr(dpg, name)) and name[0].islower()}
    assert {case["function"] for case in CASES} == functions


@st.composite
def graphs(draw):
    """Questions in any order of rows, with parents among those of smaller number."""
    ids = draw(st.permutations(range(1, draw(st.integers(1, 6)) + 1)))
    return {
        str(qid): {"dependency": draw(st.lists(st.integers(0, qid - 1), min_size=1, max_size=3)), "tuple": "t"}
        for qid in ids
    }


@given(graphs(), st.integers(1, 4), st.booleans(), st.data())
def test_a_yes_more_never_lowers_the_score(questions, tiles, official, data):
    answers = [{qid: data.draw(st.sampled_from(["yes", "no"])) for qid in questions} for _ in range(tiles)]
    tile, qid = data.draw(st.integers(0, tiles - 1)), data.draw(st.sampled_from(sorted(questions)))
    better = [{**answer, qid: "yes"} if index == tile else answer for index, answer in enumerate(answers)]
    before, after = (
        dpg.score_one_prompt(questions, given_answers, tiles, 8, official)["average"]
        for given_answers in (answers, better)
    )
    assert 0 <= before <= after <= 1


@given(graphs(), st.data())
def test_unofficial_score_does_not_depend_on_the_order_of_rows(questions, data):
    answers = [{qid: data.draw(st.sampled_from(["yes", "no"])) for qid in questions}]
    shuffled = {qid: questions[qid] for qid in data.draw(st.permutations(sorted(questions)))}
    scores = [dpg.score_one_prompt(rows, answers, 1, 8, official=False)["average"] for rows in (questions, shuffled)]
    assert scores[0] == scores[1]


def test_first_row_is_skipped_officially_only():
    csv = HEADER + 'a,1,0,t,q\na,2,"1, 0",t,q\n'
    assert list(dpg.prepare_data(csv)["a"]["qid2tuple"]) == ["2"]
    assert dpg.prepare_data(csv, official=False)["a"]["qid2dependency"] == {"1": [0], "2": [1, 0]}


def test_interrupted_prompt_starts_anew_officially_only():
    csv = HEADER + "x,1,0,t,q\na,1,0,t,q\nb,1,0,t,q\na,2,1,t,q\n"
    assert list(dpg.prepare_data(csv)["a"]["qid2tuple"]) == ["2"]
    assert list(dpg.prepare_data(csv, official=False)["a"]["qid2tuple"]) == ["1", "2"]


def test_forward_dependency_and_lenient_answers_unofficially():
    questions = {qid: {"dependency": [parent], "tuple": "t"} for qid, parent in (("1", 3), ("2", 0), ("3", 2))}
    answers = [{"1": "Yes.", "2": "no", "3": " yes"}]
    result = dpg.score_one_prompt(questions, answers, 1, 8, official=False)
    assert result["average"] == 0
    assert result["raw_scores_last_image"] == {"1": 1.0, "2": 0.0, "3": 1.0}
    official = dpg.score_one_prompt(questions, answers, 1, 8)
    assert official["raw_scores_last_image"] == {"1": 0.0, "2": 0.0, "3": 0.0}


def test_unofficial_scores_are_means_over_tiles():
    questions = {"1": {"dependency": [0], "tuple": "t"}, "2": {"dependency": [1], "tuple": "t"}}
    answers = [{"1": "yes", "2": "yes"}, {"1": "no", "2": "yes"}]
    assert dpg.score_one_prompt(questions, answers, 2, 8, official=False)["scores"] == {"1": 0.5, "2": 0.5}


def test_prompt_without_questions_is_dropped():
    dropped = {"error": "ZeroDivisionError", "dropped": True, "crops": [[0, 0, 8, 8]]}
    assert dpg.score_one_prompt({}, [{}], 1, 8) == dropped


def test_key_ends_at_the_first_dot_officially_only():
    assert dpg.output_path("a.b.txt")["key"] == "a"
    assert dpg.output_path("a.b.txt", official=False)["key"] == "a.b"


@pytest.mark.parametrize(
    ("csv", "message"),
    [
        (None, "csv: expected text, got NoneType None"),
        ("", r"columns \['dependency', 'item_id'"),
        (HEADER + "a,1,0,t,q\na,one,0,t,q\n", "data row 2: expected a number in proposition_id"),
        (HEADER + "a,1,0,t,q\na,2,,t,q\n", "data row 2: .* comma list"),
        (HEADER + "a,1,0\n", "line 2 is too short"),
        (HEADER + 'a,1,0,t,"' + "q" * 200_000, "is a quotation mark left open"),
    ],
)
def test_unusable_csv_is_refused(csv, message):
    with pytest.raises(ValueError, match=message):
        dpg.prepare_data(csv)


def test_repeated_question_is_refused_unofficially():
    with pytest.raises(ValueError, match="question 1 of 'a' occurs twice"):
        dpg.prepare_data(HEADER + "a,1,0,t,q\na,1,0,t,q\n", official=False)


ONE = {"1": {"dependency": [0], "tuple": "t"}}


@pytest.mark.parametrize(
    ("questions", "answers", "tiles", "message"),
    [
        (ONE, [], 1, "answers: expected a list with 1 or more"),
        (ONE, [{"1": "yes"}], 2, "one entry for each of 2 tiles, got 1"),
        (ONE, [{}], 1, "answers of tile 0: no '1' among its fields"),
        (ONE, [{"1": None}], 1, "answer 1 of tile 0: expected text"),
        (ONE, [{"1": "yes"}], 5, "expected 1 to 4 tiles"),
        (ONE, [{"1": "yes"}], 0, "expected 1 to 4 tiles"),
        (None, [{}], 1, "questions: expected a mapping"),
        ({"1": {"dependency": "0"}}, [{"1": "yes"}], 1, "dependency of question 1: expected a list"),
    ],
)
def test_unusable_answers_are_refused(questions, answers, tiles, message):
    with pytest.raises(ValueError, match=message):
        dpg.score_one_prompt(questions, answers, tiles, 8)


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        ({}, "questions: expected at least one"),
        ({"1": {"dependency": [7]}}, "parents that are no questions"),
        ({"1": {"dependency": [2]}, "2": {"dependency": [1]}}, "each other's parents"),
    ],
)
def test_unusable_graph_is_refused_unofficially(questions, message):
    with pytest.raises(ValueError, match=message):
        dpg.score_one_prompt(questions, [dict.fromkeys(questions, "yes")], 1, 8, official=False)


@pytest.mark.parametrize("prompts", [[], None, [{"average": 1.0}], [{"average": 1.0, "tuples": {"1": "t"}, "raw": {}}]])
def test_unusable_run_is_refused(prompts):
    with pytest.raises(ValueError, match=r"expected a list|no '\w+' among its fields"):
        dpg.aggregate(prompts)
