"""Paired differences: known values, pairs by key, refusals; and that pairing narrows the interval."""

import copy

import numpy as np
import pytest

from unipic2_evals.compare import compare_reports, comparison_table
from unipic2_evals.report import bootstrap_interval


def _report(values, group="g", **changes):
    """A report of one measure; ``values`` by key: PROMPT/SAMPLE."""
    items = [
        {
            **{"key": key, "prompt": key.split("/")[0], "cluster": key.split("/")[0], "group": group},
            **{"status": "scored", "reason": "", "images": [f"{key}.png"]},
            "values": {} if value is None else {"v": value},
        }
        for key, value in values.items()
    ]
    rules = {"judge": "j", "revision": "r", "official": True, "quirks": ["q"], "settings": {}}
    policies = {"missing_policy": "drop", "failed_policy": "drop"}
    measures = [["all", "v", None, False]]
    return {"bench": "x", **rules, **policies, "binary": True, "measures": measures, "items": items, **changes}


def test_differences_are_paired():
    first = _report({"p/0": 1.0, "p/1": 0.0, "q/0": 0.0, "q/1": None, "r/0": 1.0})
    second = _report({"q/0": 1.0, "p/1": 0.0, "p/0": 1.0, "q/1": 1.0, "s/0": 1.0})
    comparison = compare_reports(first, second)
    (row,) = comparison.differences
    assert (row.first, row.second) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert row.difference == bootstrap_interval([0.0, 0.0, 1.0], ["p", "p", "q"])
    assert (row.items, row.only_first, row.only_second) == (3, 1, 2)
    assert [(change.first["key"], change.before, change.after) for change in comparison.changes] == [("q/0", 0, 1)]


def test_pairing_narrows_the_interval():
    rng = np.random.default_rng(0)
    easy = rng.random(200)
    scores = [(easy + rng.normal(0.02, 0.02, 200)).tolist(), (easy + rng.normal(0.04, 0.02, 200)).tolist()]
    first, second = (_report({f"{n}/0": value for n, value in enumerate(run)}) for run in scores)
    (row,) = compare_reports(first, second).differences
    alone = bootstrap_interval(scores[0], list(range(200)))
    assert row.difference.high - row.difference.low < (alone.high - alone.low) / 5
    assert row.difference.low > 0
    assert "| B |" in comparison_table(compare_reports(first, second)).replace("      B", " B")


def test_identical_runs():
    report = _report({"p/0": 1.0, "q/0": 0.0})
    comparison = compare_reports(report, copy.deepcopy(report))
    assert comparison.changes == []
    assert comparison.differences[0].difference[:3] == (0, 0, 0)
    assert "not shown" in comparison_table(comparison)


def test_questions_are_paired_one_by_one():
    first, second = _report({"p/0": [0.0, 100.0]}), _report({"p/0": [100.0, 100.0]})
    assert compare_reports(first, second).differences[0].difference.mean == 50
    second["items"][0]["values"]["v"] = [1.0]
    with pytest.raises(ValueError, match="'p/0' has 2 and 1 values"):
        compare_reports(first, second)


def test_largest_change_first():
    first = _report({"a/0": 1.0, "b/0": 5.0, "c/0": 3.0})
    second = _report({"a/0": 2.0, "b/0": 1.0, "c/0": 3.0})
    assert [change.first["key"] for change in compare_reports(first, second).changes] == ["b/0", "a/0"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"judge": "other"}, "different judge can not be compared: 'j' and 'other'"),
        ({"revision": "2"}, "different revision"),
        ({"official": False}, "different official"),
        ({"settings": {"samples": 1}}, "different settings"),
        ({"missing_policy": "zero"}, "different missing policy"),
        ({"bench": "y"}, "different bench"),
    ],
)
def test_other_rules_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        compare_reports(_report({"p/0": 1.0}), _report({"p/0": 1.0}, **changes))


def test_other_prompts_are_refused():
    second = _report({"p/0": 1.0})
    second["items"][0]["prompt"] = "another"
    with pytest.raises(ValueError, match="item 'p/0' has different prompts: 'p' and 'another'"):
        compare_reports(_report({"p/0": 1.0}), second)
    with pytest.raises(ValueError, match="no scored items in common"):
        compare_reports(_report({"p/0": 1.0}), _report({"q/0": 1.0}))
