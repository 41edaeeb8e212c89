"""MMMU's rules: the official worked cases, their quirks, and both variants of evaluation."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unipic2_evals import mmmu

CASES = json.loads((Path(__file__).parents[3] / "tests/golden/mmmu/cases.json").read_text())["cases"]
ONE_ARGUMENT = {"parse_open", "instance_level_accuracy"}
PRICES = ["$6", "$7", "$8", "$9"]


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_official_case(case, agree):
    function = getattr(mmmu, case["function"])
    result = function(case["input"]) if case["function"] in ONE_ARGUMENT else function(**case["input"])
    if case["function"] == "parse_open":  # the official order is undefined
        assert len(result) == len(case["expected"])
        assert set(result) == set(case["expected"])
    else:
        assert agree(result, case["expected"])


def test_every_function_has_a_case():
    assert {case["function"] for case in CASES} == {"parse_multi_choice", "eval_open", *ONE_ARGUMENT}


@given(st.text(max_size=40), st.booleans())
def test_any_reply_can_be_read(reply, official):
    assert mmmu.parse_multi_choice(reply, PRICES, official=official) in {*"ABCD", False}
    parsed = mmmu.parse_open(reply, official)
    assert parsed
    assert isinstance(mmmu.eval_open("42", parsed), bool)


@given(st.sampled_from("ABCD"))
def test_letter_in_brackets_wins(letter):
    for official in (True, False):
        assert mmmu.parse_multi_choice(f"A B C D, so ({letter})", PRICES, official=official) == letter


@given(st.integers(-(10**6), 10**6).map(lambda hundredths: hundredths / 100))
def test_number_is_found_again(number):
    for official in (True, False):
        assert mmmu.eval_open(str(number), mmmu.parse_open(f"So the result is {number}", official))


@pytest.mark.parametrize(
    ("reply", "official", "mended"),
    [
        ("NASA says so", "A", False),  # the end of a word
        ("NASA prefers B", "B", "B"),  # of two letters, the one with blanks around it
        ("NASA and CIA agree", "A", False),
        ("it costs $8 in the shop", "C", "C"),
        ("it costs $8", "A", False),  # too short for texts: a guess
        ("B.", "B", "B"),
        ("So it is B.\nDone", "B", "B"),
        ("(a)", "A", False),
    ],
)
def test_quirks_of_multiple_choice(reply, official, mended):
    assert mmmu.parse_multi_choice(reply, PRICES) == official
    assert mmmu.parse_multi_choice(reply, PRICES, official=False) == mended


def test_guesses_of_a_run_come_from_one_generator():
    rng = random.Random(42)
    expected = [random.Random(42).choice("ABCD")]
    assert [mmmu.parse_multi_choice("?", PRICES)] == expected
    guesses = {mmmu.parse_multi_choice("?", PRICES, rng) for _ in range(40)}
    assert guesses == set("ABCD")


@pytest.mark.parametrize(
    ("reply", "official", "mended"),
    [
        ("It is 1,234.5", {1234.5, 1234.0, 234.5}, {1234.5}),
        ("It is red. The sky is Blue", {"blue"}, {"red", "blue"}),
        ("x = 2 y", {"2 y", 2.0}, {"2 y", 2.0}),
        ("the answer is b.", {" b", "b "}, {" b", "b "}),
        ("1e3", {1000.0, 3.0}, {1000.0}),
        ("", {""}, {""}),
    ],
)
def test_quirks_of_open_answers(reply, official, mended):
    assert set(mmmu.parse_open(reply)) == official
    assert set(mmmu.parse_open(reply, official=False)) == mended


@pytest.mark.parametrize(
    ("gold", "parsed", "right"),
    [
        ("42", [42.0], True),
        ("42", ["42"], False),  # texts do not match numbers
        ("blue", ["dark blue"], True),
        ("b", ["blue"], False),  # a single letter needs a blank beside it
        (["1", "one"], [1.0], True),
        ("3.14159", [3.14], True),
        ("42", [], False),
    ],
)
def test_open_answers(gold, parsed, right):
    assert mmmu.eval_open(gold, parsed) is right


def _open(answer, response, name="validation_Art_1"):
    return {"id": name, "question_type": "open", "answer": answer, "response": response}


def _choice(answer, response, name="validation_Art_Theory_2"):
    return {
        "id": name,
        "question_type": "multiple-choice",
        "answer": answer,
        "response": response,
        "options": PRICES,
    }


@pytest.mark.parametrize(
    ("question", "variant", "official", "mended"),
    [
        (_open("42", "42"), "lmms_eval", False, True),
        (_open("42", "It is 42"), "vlmevalkit", True, True),
        (_open("blue", "red"), "vlmevalkit", False, False),
        (_open("B", "Other Answers"), "vlmevalkit", True, False),
        (_open(["blue", "azure"], "azure"), "vlmevalkit", False, True),
        (_choice("B", "(B)"), "lmms_eval", True, True),
        (_choice("B", "(B)"), "vlmevalkit", True, True),
        (_choice("A", "no idea"), "lmms_eval", True, False),  # a lucky guess
        (_choice("A", "no idea"), "vlmevalkit", False, False),
        (_choice(["A", "C"], "(C)"), "lmms_eval", True, True),
    ],
)
def test_variants(question, variant, official, mended):
    assert mmmu.answer_correct(question, variant) is official
    assert mmmu.answer_correct(question, variant, official=False) is mended


def test_subjects_are_summed_up():
    questions = [_choice("B", "(B)"), _choice("C", "(B)", "validation_Art_Theory_3"), _open("42", "is 42")]
    scores = mmmu.evaluate(questions, official=False)
    assert scores == {"Art_Theory": {"acc": 0.5, "num_example": 2}, "Art": {"acc": 1.0, "num_example": 1}}
    assert mmmu.instance_level_accuracy(scores) == pytest.approx(2 / 3)
    assert mmmu.evaluate(questions)["Art"]["acc"] == 0  # officially no open question is ever right


def test_no_subjects():
    assert mmmu.instance_level_accuracy({}) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mmmu.parse_multi_choice(None, PRICES), "response: expected text"),
        (lambda: mmmu.parse_multi_choice("A", []), "options: expected a list with 1 or more"),
        (lambda: mmmu.parse_multi_choice("A", str(PRICES)), "read it with ast.literal_eval"),
        (lambda: mmmu.parse_multi_choice("A", ["x"] * 27), "at most 26, got 27"),
        (lambda: mmmu.parse_open(3.0), "response: expected text"),
        (lambda: mmmu.eval_open(42, [42.0]), "gold: expected a list"),
        (lambda: mmmu.eval_open([42], [42.0]), "gold: expected text"),
        (lambda: mmmu.answer_correct({**_open("a", "a"), "question_type": "essay"}), "got 'essay'"),
        (lambda: mmmu.answer_correct(_open("a", "a"), "mmlu"), "'lmms_eval' and|and 'mmlu'"),
        (lambda: mmmu.answer_correct({"question_type": "open"}), "question: no 'answer' among its fields"),
        (lambda: mmmu.evaluate([]), "questions: expected a list"),
        (lambda: mmmu.evaluate([_open("a", "a", "Art")]), "expected SPLIT_SUBJECT_NUMBER, got 'Art'"),
        (lambda: mmmu.instance_level_accuracy({"Art": {"acc": 1}}), "Art: no 'num_example'"),
    ],
)
def test_unusable_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
