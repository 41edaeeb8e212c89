"""GEdit-Bench's rules: the official worked cases, their quirks, and what must hold for any scores."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unipic2_evals import gedit

CASES = json.loads((Path(__file__).parents[3] / "tests/golden/gedit/cases.json").read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_official_case(case, agree):
    function = getattr(gedit, case["function"])
    one_argument = case["function"] == "parse_judge_output"
    assert agree(function(case["input"]) if one_argument else function(**case["input"]), case["expected"])


def test_every_function_has_a_case():
    functions = {name for name in gedit.__all__ if callable(getattr(gedit, name)) and name[0].islower()}
    assert {case["function"] for case in CASES} == functions


scores = st.lists(st.integers(0, 10), min_size=1, max_size=3)


@given(scores, scores)
def test_overall_is_at_most_the_mean(SC, PQ):
    semantics, quality, overall = gedit.combine(SC, PQ)
    assert min(semantics, quality) - 1e-12 <= overall <= (semantics + quality) / 2 + 1e-12
    assert (semantics, quality) == (min(SC), min(PQ))


@given(st.text(alphabet='{}[]":, 0123456789scoreV|^=\n', max_size=40), st.booleans())
def test_any_reply_is_read_or_refused(reply, official):
    result = gedit.parse_judge_output(reply, official=official)
    if not official:
        assert result is False or all(0 <= score <= 10 for score in result["score"])


@pytest.mark.parametrize(
    ("reply", "official", "mended"),
    [
        ('{"score": [80, 9], "reasoning": "r"}', {"score": [80, 9], "reasoning": "r"}, False),
        ("[60, 0]", {"score": [60, 0], "reasoning": "System: output is simply a list of scores"}, False),
        ('{"score": 7, "reasoning": "r"}', {"score": [7], "reasoning": "r"}, {"score": [7], "reasoning": "r"}),
        ("{score: 8, reasoning: fine}", {"score": [8], "reasoning": "fine"}, False),  # mended JSON
        ('{"reasoning": 5}', {"reasoning": [5]}, False),  # mended JSON without scores
        ('{"score": [8, 9]', {"score": [8, 9], "reasoning": "System: output is simply a list of scores"}, False),
        ("||V^=^V||[6, 0]||V^=^V||", [6, 0], False),  # other JSON between the delimiters
        ("I give it [6, 7].", {"score": [6, 7], "reasoning": "System: output is simply a list of scores"}, False),
        ('{"score": []}', {"score": []}, False),
        ("[06, 1]", False, False),  # the official code fails on leading zeros
        ("rate_limit_exceeded", "rate_limit_exceeded", False),
        ('a {"score": [1, 2]} b {"score": [3, 4]}', False, {"score": [3, 4], "reasoning": ""}),
        ("[6, 7, 8]", False, {"score": [6, 7, 8], "reasoning": ""}),
        ("[" * 100_000, False, False),
    ],
)
def test_quirks_of_the_parser(reply, official, mended):
    assert gedit.parse_judge_output(reply) == official
    assert gedit.parse_judge_output(reply, official=False) == mended


def test_a_guess_stands_for_a_reply_without_json():
    assert gedit.parse_judge_output("no idea", guess=3) == {
        "score": [3],
        "reasoning": "guess_if_cannot_parse | no idea",
    }
    assert gedit.parse_judge_output('{"score": [8, 9]}', guess=3) == {"score": [8, 9]}
    assert gedit.parse_judge_output("no idea", guess=3, official=False) is False


def _row(group="text_change", language="en", semantics=4, quality=9, intersects=True):
    return {
        "task_type": group,
        "key": "k",
        "instruction_language": language,
        "intersection_exist": intersects,
        "semantics": semantics,
        "quality": quality,
    }


def test_group_without_rows_is_nan_officially_only():
    rows = [_row(), _row("style_change", semantics=1, quality=1, intersects=False)]
    official = gedit.aggregate(rows)
    assert official["overall"]["text_change"] == 6
    assert math.isnan(official["overall"]["ps_human"])
    assert math.isnan(official["overall"]["average"])
    mended = gedit.aggregate(rows, official=False)
    assert mended["overall"] == {"style_change": 1, "text_change": 6, "average": 3.5}
    assert mended["overall_intersection"] == {"text_change": 6, "average": 6}


def test_overall_is_not_the_root_of_means():
    rows = [_row(semantics=0, quality=10), _row(semantics=10, quality=0)]
    assert gedit.aggregate(rows, official=False)["overall"]["average"] == 0


def test_chinese_is_cn_officially_only():
    rows = [_row(language="cn")]
    assert math.isnan(gedit.aggregate(rows, "zh")["overall"]["text_change"])
    assert gedit.aggregate(rows, "zh", official=False) == gedit.aggregate(rows, "cn", official=False)


def test_unknown_group_is_ignored_officially_only():
    rows = [_row(), _row("text-change")]
    assert gedit.aggregate(rows)["overall"]["text_change"] == 6
    with pytest.raises(ValueError, match="task_type of row 1: expected one of"):
        gedit.aggregate(rows, official=False)


@pytest.mark.parametrize(
    ("rows", "language", "message"),
    [
        ([], "en", "rows: expected a list with 1 or more"),
        ([_row()], "fr", "language: expected one of"),
        ([_row(intersects="False")], "en", "intersection_exist of row 0: expected true or false"),
        ([_row(semantics="4")], "en", "semantics of row 0: expected a finite number, got str '4'"),
        ([_row(quality=math.nan)], "en", "quality of row 0: expected a finite number"),
        ([{"task_type": "text_change"}], "en", "row 0: no 'intersection_exist' among its fields"),
    ],
)
def test_unusable_rows_are_refused(rows, language, message):
    with pytest.raises(ValueError, match=message):
        gedit.aggregate(rows, language, official=False)


@pytest.mark.parametrize(("SC", "PQ"), [([], [1]), ([1], None), ([True], [1]), (["8"], [1]), ([1], [-1]), ("89", [1])])
def test_unusable_scores_are_refused(SC, PQ):
    with pytest.raises(ValueError, match=r"(SC|PQ): expected"):
        gedit.combine(SC, PQ)


@pytest.mark.parametrize("reply", [None, {"error": "timeout"}, b"{}"])
def test_reply_that_is_no_text_is_refused(reply):
    with pytest.raises(ValueError, match=r"reply: expected text, .* ask again"):
        gedit.parse_judge_output(reply)


def test_rounded_size_is_closer_unofficially():
    assert gedit.calculate_dimensions(512 * 512, 1.5) == [608, 416, 252928]
    assert gedit.calculate_dimensions(512 * 512, 1.5, official=False) == [640, 416, 266240]


@pytest.mark.parametrize(("area", "ratio"), [(0, 1), (262144, 0), (262144, -1), (None, 1)])
def test_unusable_size_is_refused(area, ratio):
    with pytest.raises(ValueError, match="expected a"):
        gedit.calculate_dimensions(area, ratio)


@pytest.mark.parametrize("key", ["", "..", "a/b", None])
def test_key_that_is_no_name_is_refused(key):
    with pytest.raises(ValueError, match="key: expected"):
        gedit.output_path("m", "subject-add", "en", key)
