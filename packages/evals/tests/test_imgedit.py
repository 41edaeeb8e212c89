"""ImgEdit-Bench's rules: the official worked cases, their quirks, and what must hold for any scores."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unipic2_evals import imgedit

CASES = json.loads((Path(__file__).parents[3] / "tests/golden/imgedit/cases.json").read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_official_case(case, agree):
    function = getattr(imgedit, case["function"])
    one_argument = case["function"].startswith("parse")
    assert agree(function(case["input"]) if one_argument else function(**case["input"]), case["expected"])


def test_every_function_has_a_case():
    functions = {name for name in imgedit.__all__ if callable(getattr(imgedit, name)) and name[0].islower()}
    assert {case["function"] for case in CASES} == functions - {"overalls"}  # sums the others up


def _run(by_type):
    """Return scores and metadata of images in the given types."""
    items = [(f"{kind}{index}", kind, score) for kind, found in by_type.items() for index, score in enumerate(found)]
    return {key: score for key, _, score in items}, {key: {"edit_type": kind} for key, kind, _ in items}


balanced = st.integers(1, 4).flatmap(
    lambda size: st.dictionaries(
        st.sampled_from(imgedit.EDIT_TYPES),
        st.lists(st.integers(3, 15).map(lambda total: total / 3), min_size=size, max_size=size),
        min_size=1,
    )
)


@given(balanced)
def test_macro_is_micro_if_the_types_are_balanced(by_type):
    mended, official = (imgedit.overalls(*_run(by_type), official=official) for official in (False, True))
    assert mended["macro"] == pytest.approx(mended["sample_mean"])
    assert mended["sample_mean"] == pytest.approx(mended["sample_mean_failures_zero"])
    # Officially, the means of types are rounded, and so are both Overalls.
    assert official["macro"] == pytest.approx(official["sample_mean"], abs=0.0151)


@given(balanced)
def test_failures_lower_one_overall_alone(by_type):
    scores, meta = _run(by_type)
    whole, failed = imgedit.overalls(scores, meta), imgedit.overalls({**scores, "lost": None}, meta)
    assert failed["sample_mean_failures_zero"] < whole["sample_mean_failures_zero"]
    assert (failed["macro"], failed["sample_mean"]) == (whole["macro"], whole["sample_mean"])


THREE = "Prompt Compliance: {}\nVisual Naturalness: {}\nPhysical & Detail Integrity: {}"


@given(st.tuples(*[st.integers(1, 5)] * 3), st.sampled_from(["{}", "{}.", "{}/5", "**{}**", "{} / 5", "{} out of 5"]))
def test_unofficial_parser_reads_what_judges_write(scores, style):
    reply = "Brief reasoning: fine: 2 of 3\n" + THREE.format(*(style.format(score) for score in scores))
    first = scores[0]
    expected = sum(min(score, first) for score in scores) / 3
    assert imgedit.parse_and_average(reply, official=False) == pytest.approx(expected)
    assert imgedit.parse_three_scores_lmms_eval(reply, official=False) == list(scores)


@pytest.mark.parametrize(
    ("reply", "official", "mended"),
    [
        (THREE.format(2, 5, 5), 4.0, 2.0),  # the first limits the others
        (THREE.format(9, 5, 4), 6.0, None),  # 9 is no score
        ("Prompt Compliance: 4", 4.0, None),  # one is not three
        (THREE.format("4/5", 3, 2), 2.5, 3.0),
        (THREE.replace(": ", ":").format(4, 3, 2), None, 3.0),
        ("Brief reasoning: 5\n" + THREE.format(2, 2, 2), 2.75, 2.0),
        (THREE.format("4.5", 3, 2), 2.5, None),
        ("Compliance: \u00b2", None, None),  # a digit that is no number: the official code fails
        ("Compliance: " + "9" * 5000, None, None),  # and so it does on numbers beyond a float
        ("no scores", None, None),
    ],
)
def test_quirks_of_the_parser(reply, official, mended):
    assert imgedit.parse_and_average(reply) == official
    assert imgedit.parse_and_average(reply, official=False) == (None if mended is None else pytest.approx(mended))


@pytest.mark.parametrize(
    ("reply", "official"),
    [
        (THREE.format("4.5", "3/5", 2), [4.0, 3.0, 2.0]),
        ("Sizes: 7\n" + THREE.format(1, 2, 30), [1.0, 2.0, 30.0]),
        ("4\n3", [0.0, 0.0, 0.0]),
        (None, [0.0, 0.0, 0.0]),
    ],
)
def test_quirks_of_lmms_eval(reply, official):
    assert imgedit.parse_three_scores_lmms_eval(reply) == official
    assert imgedit.parse_three_scores_lmms_eval(reply, official=False) is None


def test_failed_call_is_refused_officially_only():
    with pytest.raises(ValueError, match=r"reply: expected text, got dict .*leave it out"):
        imgedit.parse_and_average({"error": "timeout"})
    assert imgedit.parse_and_average({"error": "timeout"}, official=False) is None


def test_unofficial_means_are_not_rounded():
    scores, meta = _run({"add": [1.0, 1.0, 2.0], "style": [5.0]})
    assert imgedit.overall_macro_geneditevalkit(scores, meta) == {"add": 1.33, "style": 5.0, "Overall": 3.17}
    mended = imgedit.overall_macro_geneditevalkit(scores, meta, official=False)
    assert mended == pytest.approx({"add": 4 / 3, "style": 5, "Overall": 19 / 6})


def test_image_without_metadata_is_refused_unofficially():
    with pytest.raises(ValueError, match="metadata of 'lost': no edit type"):
        imgedit.per_type_official({"lost": 4.0}, {}, official=False)


def test_nothing_scored():
    assert imgedit.per_type_official({}, {}) == {}
    assert imgedit.overall_sample_mean_bagel({}, {}) == {}
    with pytest.raises(ValueError, match="none of 0 images has a score"):
        imgedit.overall_macro_geneditevalkit({}, {})


@pytest.mark.parametrize(
    ("scores", "meta", "message"),
    [
        ({"1": None}, {}, "score of '1' .*: expected a finite number"),
        ({"1": "4"}, {}, "score of '1'"),
        ([4], {}, "scores: expected a mapping"),
        ({"1": 4}, {"1": "add"}, "metadata of '1': expected a mapping"),
        ({"1": 4}, {"1": {"edit_type": 3}}, "edit_type of '1': expected text"),
        ({"1": 4}, None, "meta: expected a mapping"),
    ],
)
def test_unusable_scores_are_refused(scores, meta, message):
    with pytest.raises(ValueError, match=message):
        imgedit.per_type_official(scores, meta)


def test_key_that_is_no_name_is_refused():
    with pytest.raises(ValueError, match="key: expected"):
        imgedit.output_path("a/b")
