"""MMBench's rules: the official worked cases, their quirks, and circular against vanilla evaluation."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unipic2_evals import mmbench

CASES = json.loads((Path(__file__).parents[3] / "tests/golden/mmbench/cases.json").read_text())["cases"]
ANIMALS = {"A": "teddy bear", "B": "rabbit", "C": "cat", "D": "dog"}


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_official_case(case, agree):
    function = getattr(mmbench, case["function"])
    one_argument = case["function"] == "circular_group"
    assert agree(function(case["input"]) if one_argument else function(**case["input"]), case["expected"])


def test_every_function_has_a_case():
    assert {case["function"] for case in CASES} == {"can_infer", "circular_group"}


def _rotations(right, predictions):
    """Return the rotations of a question whose right answer is ``right``, a text."""
    texts = list(ANIMALS.values())
    rows = []
    for turn, prediction in enumerate(predictions):
        options = dict(zip("ABCD", texts[turn:] + texts[:turn], strict=True))
        gold = next(letter for letter, text in options.items() if text == right)
        rows.append({"index": 7 + turn * mmbench.ROTATION, "GT": gold, "prediction": prediction, **options})
    return rows


replies = st.sampled_from(["A", "B", "(C)", "D.", "a rabbit", "cat", "I see a dog", "A or B", "", "Answer: B"])


@given(st.sampled_from(sorted(ANIMALS.values())), st.lists(replies, min_size=4, max_size=4), st.booleans())
def test_circular_is_at_most_vanilla(right, predictions, official):
    rows = _rotations(right, predictions)
    assert mmbench.circular_group(rows, official) <= mmbench.vanilla_group(rows[::-1], official)


@given(st.text(max_size=30), st.booleans())
def test_any_reply_gives_an_option_or_none(reply, official):
    assert mmbench.can_infer(reply, ANIMALS, official) in {*ANIMALS, "Z", False}


@pytest.mark.parametrize(
    ("reply", "official", "mended"),
    [
        ("A rabbit", "A", "B"),  # an article
        ("The answer is blue", "B", False),  # no end of the letter
        ("The answer is C because of the whiskers and the very long tail", "C", "C"),
        ("C is what I would say, and I would say it again", False, "C"),  # the letter stands too early
        ("b", False, "B"),
        ("B", "B", "B"),
        ("category", "C", False),  # a text within a word
        ("It must be the rabbit, " + "as anybody can see in this picture. " * 3, False, "B"),  # a long reply
        ("Z", "Z", "Z"),
        ("I'm sorry, but without the image provided I can't tell", "Z", "Z"),
        ("Failed to obtain answer via API: a cat", "C", "C"),
        ("Answer: D", "D", "D"),
        ("A and B", False, False),
        (None, False, False),
    ],
)
def test_quirks_of_option_matching(reply, official, mended):
    assert mmbench.can_infer(reply, ANIMALS) == official
    assert mmbench.can_infer(reply, ANIMALS, official=False) == mended


def test_more_than_four_options():
    six = {**ANIMALS, "E": "owl", "F": "fox"}
    assert mmbench.can_infer("The answer is F, as the colour of its fur and its size say", six) is False
    assert mmbench.can_infer("The answer is F, as the colour of its fur and its size say", six, official=False) == "F"


def test_choices_are_not_changed():
    choices = {"A": "Cat", "B": "Dog"}
    mmbench.can_infer("the CAT", choices)
    assert choices == {"A": "Cat", "B": "Dog"}


def test_missing_rotation_is_refused_unofficially():
    rows = _rotations("rabbit", ["B", "A", "D"])
    assert mmbench.circular_group(rows) == 1
    with pytest.raises(ValueError, match="question 7: 3 rotations of 4 options"):
        mmbench.circular_group(rows, official=False)


def test_absent_options_do_not_count():
    row = {"index": 1, "GT": "A", "prediction": "yes", "A": "yes", "B": "no", "C": None, "D": math.nan}
    assert mmbench.circular_group([row]) == 1
    with pytest.raises(ValueError, match="1 rotations of 2 options"):
        mmbench.circular_group([row], official=False)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "rows: expected a list with 1 or more"),
        ([{"index": 1}, {"index": 2}], "rotations of one question, got those of"),
        ([{"GT": "A"}], "row 0: no 'index' among its fields"),
        ([{"index": "1"}], "index of row 0: expected a finite number"),
        ([{"index": 1, "A": "x"}], "row of index 1: no 'prediction'"),
    ],
)
def test_unusable_rows_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        mmbench.circular_group(rows)


@pytest.mark.parametrize("choices", [{"a": "x"}, {"AB": "x"}, {1: "x"}, ["x"]])
def test_unusable_choices_are_refused(choices):
    with pytest.raises(ValueError, match="choices: expected"):
        mmbench.can_infer("x", choices)
