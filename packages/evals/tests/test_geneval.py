"""GenEval's rules: the official worked cases, and what must hold for any input."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unipic2_evals import geneval

CASES = json.loads((Path(__file__).parents[3] / "tests/golden/geneval/cases.json").read_text())["cases"]
ONE_ARGUMENT = {"summary", "with_article", "make_plural"}


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_official_case(case):
    function = getattr(geneval, case["function"])
    given_input, expected = case["input"], case["expected"]
    result = function(given_input) if case["function"] in ONE_ARGUMENT else function(**given_input)
    if case["function"] == "evaluate" and expected["reason"] is None:
        assert result["correct"] is expected["correct"]
    elif isinstance(expected, float):
        assert result == pytest.approx(expected, abs=1e-12)
    else:
        assert result == expected


def test_every_function_has_a_case():
    assert {case["function"] for case in CASES} == {
        *("compute_iou", "relative_position", "filter_detections", "evaluate", "summary", "generate_suite"),
        *("with_article", "make_plural", "output_path"),
    }


coordinates = st.integers(0, 400)
sizes = st.integers(1, 200)
boxes = st.tuples(coordinates, coordinates, sizes, sizes).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])
SCALES = st.sampled_from([2, 4, 8])  # exact in floating point: a comparison can not flip by rounding
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


@given(boxes, boxes, st.booleans())
def test_relations_are_antisymmetric(a, b, official):
    forward = geneval.relative_position(a, b, official=official)
    backward = geneval.relative_position(b, a, official=official)
    assert sorted(OPPOSITE[relation] for relation in forward) == backward


@given(boxes, boxes, SCALES)
def test_relations_do_not_depend_on_scale(a, b, scale):
    scaled = geneval.relative_position([scale * v for v in a], [scale * v for v in b])
    assert scaled == geneval.relative_position(a, b)


@given(boxes, boxes)
def test_iou_is_symmetric_and_bounded(a, b):
    overlap = geneval.compute_iou(a, b)
    assert overlap == geneval.compute_iou(b, a)
    assert 0 <= overlap <= 1
    assert (overlap == 1) == (a == b)


@pytest.mark.parametrize(("official", "gap", "expected"), [(True, 20, []), (True, 21, ["left of"])])
def test_official_margin_is_twice_its_name(official, gap, expected):
    # Two boxes 50 wide: the margin is 0.1 * 100 = 10 pixels by name and 20 in effect.
    assert geneval.relative_position([0, 0, 50, 50], [gap, 0, gap + 50, 50], official=official) == expected


@pytest.mark.parametrize(("gap", "expected"), [(10, []), (11, ["left of"])])
def test_unofficial_margin_is_what_it_says(gap, expected):
    assert geneval.relative_position([0, 0, 50, 50], [gap, 0, gap + 50, 50], official=False) == expected


names = st.sampled_from(["car", "dog"])
metadata = st.one_of(
    names.map(lambda name: {"tag": "single_object", "include": [{"class": name, "count": 1}]}),
    st.tuples(names, st.integers(1, 3)).map(
        lambda drawn: {
            "tag": "counting",
            "include": [{"class": drawn[0], "count": drawn[1]}],
            "exclude": [{"class": drawn[0], "count": drawn[1] + 1}],
        }
    ),
    st.tuples(names, st.sampled_from(["red", "blue"])).map(
        lambda drawn: {"tag": "colors", "include": [{"class": drawn[0], "count": 1, "color": drawn[1]}]}
    ),
    st.sampled_from(geneval.RELATIONS).map(
        lambda relation: {
            "tag": "position",
            "include": [{"class": "car", "count": 1}, {"class": "dog", "count": 1, "position": [relation, 0]}],
        }
    ),
)
# Distinct scores: with ties, the official code has no defined order.
detections = st.lists(
    st.tuples(boxes, st.floats(0.5, 1), st.sampled_from(["red", "blue"])), max_size=4, unique_by=lambda d: d[1]
)
raw_scenes = st.fixed_dictionaries({}, optional={"car": detections, "dog": detections})


def _judge(scene, prompt, order=lambda found: found, scale=1, official=True):
    """Filter and evaluate a scene of (box, score, colour), with its detections in the given order."""
    raw = {
        name: [[*(scale * v for v in box), score] for box, score, _ in order(found)] for name, found in scene.items()
    }
    kept = geneval.filter_detections(raw, "colors")
    color_of = {(name, score): color for name, found in scene.items() for _, score, color in found}
    colors = {name: [color_of[name, box[4]] for box in found] for name, found in kept.items()}
    return geneval.evaluate(kept, colors, prompt, official=official)


@given(raw_scenes, metadata, st.randoms())
def test_verdict_does_not_depend_on_the_order_of_detections(scene, prompt, random):
    def shuffled(found):
        return random.sample(found, len(found))

    assert _judge(scene, prompt) == _judge(scene, prompt, order=shuffled)


@given(raw_scenes, metadata, SCALES)
def test_verdict_does_not_depend_on_scale(scene, prompt, scale):
    assert _judge(scene, prompt) == _judge(scene, prompt, scale=scale)


@given(raw_scenes, metadata, detections)
def test_verdict_does_not_depend_on_unrelated_classes(scene, prompt, unrelated):
    assert _judge(scene, prompt) == _judge({**scene, "zebra": unrelated}, prompt)


@given(raw_scenes, metadata)
def test_correct_means_no_reason(scene, prompt):
    verdict = _judge(scene, prompt)
    assert verdict["correct"] == (verdict["reason"] == "")


@given(raw_scenes, metadata)
def test_unofficial_rules_are_never_stricter_on_colour(scene, prompt):
    if prompt["tag"] == "colors" and _judge(scene, prompt)["correct"]:
        assert _judge(scene, prompt, official=False)["correct"]


def test_a_less_confident_box_of_the_right_colour_counts_unofficially():
    objects = {"car": [[0, 0, 50, 50, 0.9], [60, 0, 110, 50, 0.8]]}
    clause = {"tag": "colors", "include": [{"class": "car", "count": 1, "color": "red"}]}
    colors = {"car": ["blue", "red"]}
    assert not geneval.evaluate(objects, colors, clause)["correct"]
    assert geneval.evaluate(objects, colors, clause, official=False)["correct"]


def test_unofficial_position_looks_at_the_box_of_the_right_colour():
    objects = {"car": [[0, 0, 9, 9, 0.9], [200, 0, 209, 9, 0.8]], "dog": [[100, 0, 109, 9, 0.9]]}
    colors = {"car": ["blue", "red"]}
    include = [{"class": "dog", "count": 1}, {"class": "car", "count": 1, "color": "red", "position": ["right of", 0]}]
    assert geneval.evaluate(objects, colors, {"include": include}, official=False)["correct"]


def test_two_relations_are_listed_in_one_order():
    objects = {"car": [[0, 0, 10, 10, 0.9]], "dog": [[100, 100, 110, 110, 0.9]]}
    include = [{"class": "car", "count": 1}, {"class": "dog", "count": 1, "position": ["above", 0]}]
    reason = geneval.evaluate(objects, {}, {"include": include})["reason"]
    assert reason == "expected dog above target, found below and right of target"


def test_box_without_a_colour_is_refused():
    clause = {"include": [{"class": "car", "count": 1, "color": "red"}]}
    with pytest.raises(ValueError, match="colors of 'car': expected one for each of 1 boxes, got 0"):
        geneval.evaluate({"car": [[0, 0, 9, 9, 0.9]]}, {}, clause)


def test_position_of_a_later_clause_is_refused():
    clause = {"include": [{"class": "car", "count": 1, "position": ["above", 0]}]}
    with pytest.raises(ValueError, match="clause 0 is not an earlier one"):
        geneval.evaluate({"car": [[0, 0, 9, 9, 0.9]]}, {}, clause)


def test_unknown_filter_option_is_refused():
    with pytest.raises(ValueError, match=r"unknown options \['treshold'\]"):
        geneval.filter_detections({}, "colors", {"treshold": 0.5})


def test_class_without_detections_is_dropped():
    assert geneval.filter_detections({"car": []}, "colors") == {}


def test_summary_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no image records"):
        geneval.summary([])


CAR = {"include": [{"class": "car", "count": 1}]}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: geneval.compute_iou([0, 0, 9], [0, 0, 9, 9]), r"box_a: expected \[x1, y1, x2, y2\], got \[0, 0, 9\]"),
        (lambda: geneval.relative_position([0, 0, 9, 9], [0, 0, 9, None]), "corner of obj_b: expected a finite number"),
        (lambda: geneval.filter_detections({"car": [[0, 0, 9, 9]] * 5}, "colors"), "detections of 'car': expected"),
        (lambda: geneval.evaluate({}, {}, None), "metadata: expected a mapping"),
        (lambda: geneval.evaluate([], {}, CAR), "objects: expected a mapping"),
        (lambda: geneval.evaluate({}, {}, {"include": [{"class": "car"}]}), "include clause: no 'count'"),
        (lambda: geneval.evaluate({}, {}, {"exclude": [{"count": 2}]}), "exclude clause: no 'class'"),
        (lambda: geneval.summary([{"tag": "colors", "correct": True}]), "record 0: no 'metadata' among its fields"),
        (
            lambda: geneval.summary([{"tag": "a", "metadata": {}, "correct": True}]),
            "metadata of record 0: expected what",
        ),
    ],
)
def test_malformed_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
