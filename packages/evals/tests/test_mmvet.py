"""MM-Vet's rules: the official worked cases, their quirks, and what must hold for any grades."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unipic2_evals import mmvet

CASES = json.loads((Path(__file__).parents[3] / "tests/golden/mmvet/cases.json").read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_official_case(case, agree):
    function = getattr(mmvet, case["function"])
    result = function(case["input"]) if case["function"] == "aggregate" else function(**case["input"])
    assert agree("nan" if isinstance(result, float) and math.isnan(result) else result, case["expected"])


def test_every_function_has_a_case():
    assert {case["function"] for case in CASES} == {"parse_judge", "aggregate"}


combinations = st.lists(st.sampled_from(mmvet.CAPABILITIES), min_size=1, max_size=3, unique=True).map(",".join)
questions = st.lists(
    st.fixed_dictionaries({"category": combinations, "score": st.integers(0, 10).map(lambda tenths: tenths / 10)}),
    min_size=1,
)


@given(questions, st.booleans())
def test_means_lie_in_range_and_agree(rows, official):
    scores = mmvet.aggregate(rows, official)
    overall = 100 * sum(row["score"] for row in rows) / len(rows)
    assert scores["capability"]["Overall"] == scores["integration"]["Overall"] == pytest.approx(overall)
    assert all(0 <= score <= 100 + 1e-9 for table in scores.values() for score in table.values())


@given(questions)
def test_variants_agree_without_single_tags(rows):
    joined = [{**row, "category": row["category"] if "," in row["category"] else "rec,ocr"} for row in rows]
    assert mmvet.aggregate(joined) == mmvet.aggregate(joined, official=False)


def test_single_tags_count_twice_officially_only():
    rows = [{"category": "rec", "score": 1.0}, {"category": "rec,ocr", "score": 0.0}]
    official, mended = mmvet.aggregate(rows), mmvet.aggregate(rows, official=False)
    assert official["capability"]["rec"] == official["integration"]["rec"] == pytest.approx(200 / 3)
    assert mended["capability"]["rec"] == 50
    assert mended["integration"] == {"rec": 100, "rec_ocr": 0, "Overall": 50}
    assert "math" not in official["capability"]


def test_a_nan_grade_shows():
    assert math.isnan(mmvet.aggregate([{"category": "rec,ocr", "score": math.nan}])["capability"]["Overall"])


@pytest.mark.parametrize(
    ("replies", "official", "mended"),
    [
        (["0.7 because it is partly right"], 0.0, 0.7),
        (["The score is 0.7", "0.4"], 0.4, 0.4),
        (["1.0/1.0"], 0.0, None),
        (["70%"], 0.0, None),
        (["0.5/1"], 0.0, None),
        (["x"], 0.0, None),
        (["x"] * 5 + ["0.9"], 0.0, None),  # the sixth try is not read
        (["", "1"], 1.0, 1.0),
    ],
)
def test_quirks_of_grades(replies, official, mended):
    assert mmvet.parse_judge(replies) == official
    assert mmvet.parse_judge(replies, official=False) == mended


def test_nan_is_a_grade_officially_only():
    assert math.isnan(mmvet.parse_judge(["nan", "0.5"]))
    assert mmvet.parse_judge(["nan", "0.5"], official=False) == 0.5


@given(st.lists(st.text(max_size=8), min_size=1, max_size=7), st.booleans())
def test_any_replies_give_a_grade_or_none(replies, official):
    grade = mmvet.parse_judge(replies, official)
    assert grade is None or 0 <= grade <= 1 or math.isnan(grade)


@pytest.mark.parametrize("replies", [[], None, "0.5", [None]])
def test_unusable_replies_are_refused(replies):
    with pytest.raises(ValueError, match=r"repl(ies|y): expected"):
        mmvet.parse_judge(replies)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "rows: expected a list"),
        ([{"category": "rec"}], "row 0: no 'score' among its fields"),
        ([{"category": "rec", "score": "good"}], "score of row 0: expected a grade from 0 to 1, got 'good'"),
        ([{"category": "rec", "score": 70}], "expected a grade from 0 to 1, got 70"),
        ([{"category": ["rec"], "score": 1}], "category of row 0: expected text"),
    ],
)
def test_unusable_rows_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        mmvet.aggregate(rows)
