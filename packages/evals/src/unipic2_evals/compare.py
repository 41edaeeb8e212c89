"""Two reports of one benchmark, item by item.

Two runs share their prompts, and (with seeds that depend on the item alone) their noise. The difference of each pair
therefore varies much less than the two scores do, and its interval says whether one run is better where the scores'
own intervals overlap. Reports are comparable only if the same judge looked at both by the same rules.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from unipic2_evals.report import Interval, format_interval, markdown_table
from unipic2_evals.runs import Measure
from unipic2_evals.scoring import Report, Row, measured, value_rows

__all__ = ["Change", "Comparison", "Difference", "compare_reports", "comparison_table"]

RULES = ("bench", "judge", "revision", "official", "quirks", "settings", "missing_policy", "failed_policy")
"""What must be the same in both reports."""


class Difference(NamedTuple):
    """One row of the table: a measure over the items that have it in both reports."""

    name: str
    first: float
    second: float
    difference: Interval
    """Second minus first; the interval is a bootstrap over clusters of the paired differences."""
    items: int
    only_first: int
    """Items left out because the second report has no value for them."""
    only_second: int


class Change(NamedTuple):
    """An item whose score is another in the second report."""

    first: Row
    second: Row
    before: float
    after: float


class Comparison(NamedTuple):
    """What two reports say about each other."""

    bench: str
    judge: str
    rules: str
    differences: list[Difference]
    changes: list[Change]
    """The largest first."""


def compare_reports(first: Report, second: Report) -> Comparison:
    """Compare two reports, pairing items by key.

    Args:
        first: The report to start from.
        second: The other.

    Returns:
        Differences of all measures, and the items that changed.

    Raises:
        ValueError: If the reports come of different judges or rules, or have no items in common.
    """
    for rule in RULES:
        if first[rule] != second[rule]:  # type: ignore[literal-required]
            values = f"{first[rule]!r} and {second[rule]!r}"  # type: ignore[literal-required]
            message = f"reports of different {rule.replace('_', ' ')} can not be compared: {values}"
            raise ValueError(message)
    rows = [{row["key"]: row for row in report["items"]} for report in (first, second)]
    shared = [key for key in rows[0] if key in rows[1]]
    foreign = next((key for key in shared if rows[0][key]["prompt"] != rows[1][key]["prompt"]), None)
    if foreign is not None:
        prompts = " and ".join(repr(by_key[foreign]["prompt"]) for by_key in rows)
        message = f"item {foreign!r} has different prompts: {prompts}; are these two versions of the benchmark?"
        raise ValueError(message)
    known = [Measure(*values) for values in first["measures"]]
    known += [measure for values in second["measures"] if (measure := Measure(*values)) not in known]
    found = [difference for measure in known if (difference := _difference(first, second, measure))]
    if not found:
        message = f"the reports have no scored items in common ({len(shared)} keys are in both)"
        raise ValueError(message)
    changes = [change for key in shared if (change := _change(rows[0][key], rows[1][key], known))]
    changes.sort(key=lambda change: -abs(change.after - change.before))
    quirks = ", ".join(first["quirks"]) or "none"
    return Comparison(
        first["bench"], f"{first['judge']} ({first['revision']})", f"official quirks kept: {quirks}", found, changes
    )


def comparison_table(comparison: Comparison) -> str:
    """Return the differences as a Markdown table."""
    rows = [
        [
            row.name,
            f"{row.first:.3f}",
            f"{row.second:.3f}",
            format_interval(row.difference),
            _verdict(row.difference),
            row.items,
            row.only_first,
            row.only_second,
        ]
        for row in comparison.differences
    ]
    headers = ["", "A", "B", "B - A [95 %]", "better", "pairs", "only in A", "only in B"]
    return markdown_table(headers, rows)


def _difference(first: Report, second: Report, measure: Measure) -> Difference | None:
    sides = [value_rows(report["items"], measure) for report in (first, second)]
    shared = [key for key in sides[0] if key in sides[1]]
    binary = False
    means = [measured({key: rows[key] for key in shared}, measure, binary) for rows in sides]
    paired = {
        key: cast("Row", {**sides[0][key], "values": {measure.value: _minus(sides, key, measure.value)}})
        for key in shared
    }
    difference = measured(paired, measure, binary)
    if difference is None or means[0] is None or means[1] is None:
        return None
    alone = [len(rows) - len(shared) for rows in sides]
    return Difference(measure.name, means[0].mean, means[1].mean, difference, len(shared), *alone)


def _minus(sides: Sequence[dict[str, Row]], key: str, value: str) -> Any:
    before, after = (rows[key]["values"][value] for rows in sides)
    if not isinstance(before, list):
        return after - before
    if len(before) != len(after):
        message = f"item {key!r} has {len(before)} and {len(after)} values of {value!r}; two versions of the benchmark?"
        raise ValueError(message)
    return [b - a for a, b in zip(before, after, strict=True)]


def _change(first: Row, second: Row, measures: Sequence[Measure]) -> Change | None:
    """Return a change of the main value, that of the last measure that the item has."""
    for measure in reversed(measures):
        before, after = (row["values"].get(measure.value) for row in (first, second))
        if isinstance(before, int | float) and isinstance(after, int | float):
            return Change(first, second, before, after) if before != after else None
    return None


def _verdict(difference: Interval) -> str:
    if difference.low > 0:
        return "B"
    return "A" if difference.high < 0 else "not shown"
