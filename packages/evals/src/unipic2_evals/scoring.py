"""From a folder of images and what models said about them to a table of scores.

Three things can keep an item from having a score, and all are counted: its image is *missing*; it is *unanswered*, the
judge has not looked at it; or it has *failed*, the judge's answer holds no score. A missing image is the sampler's
fault, and a policy decides what it counts (`Missing`); an unanswered one is nobody's, and is never scored as zero.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypedDict

from unipic2_evals.answers import Answers, Asker, JudgeId, ask_all
from unipic2_evals.report import Interval, bootstrap_interval, wilson_interval
from unipic2_evals.runs import Item, Measure, Run, Scored

__all__ = ["STATUSES", "Policy", "Report", "Row", "ScoreRow", "measured", "score_run", "value_rows"]

Policy = Literal["zero", "drop", "error"]
"""What lacks a score counts as zero, is left out, or is an error."""
STATUSES = ("scored", "missing", "unanswered", "failed")
FORMAT = 1
"""Version of the JSON that is written."""

Values = Mapping[str, float | Sequence[float]]


class Row(TypedDict):
    """One item of a report."""

    key: str
    prompt: str
    cluster: str
    group: str
    status: str
    reason: str
    images: list[str]
    values: dict[str, Any]
    """Empty if the item counts nowhere."""


class ScoreRow(TypedDict):
    """One row of the table; it says itself whose judgement it is."""

    name: str
    value: float
    low: float
    high: float
    total: int
    """Numbers behind the mean."""
    missing: int
    unanswered: int
    failed: int
    judge: str
    revision: str
    official: bool
    quirks: list[str]


class Report(TypedDict):
    """All that scoring found out; written as JSON and read by ``compare``."""

    format: int
    bench: str
    judge: str
    revision: str
    answered_by: str
    """Whose answers were scored: the judge's, or those of the model under test."""
    official: bool
    quirks: list[str]
    settings: dict[str, Any]
    missing_policy: Policy
    failed_policy: Policy
    binary: bool
    counts: dict[str, int]
    scores: list[ScoreRow]
    measures: list[list[Any]]
    items: list[Row]


class _Scores(NamedTuple):
    items: list[Item]
    rows: list[Row]
    records: dict[str, Any]


def score_run(
    run: Run,
    answers: Answers,
    judge: JudgeId,
    missing: Policy = "error",
    failed: Policy = "drop",
    asker: Asker | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Score a run.

    Args:
        run: The folder.
        answers: What is known about its images.
        judge: Whose answers count: the judge, or the model under test where the benchmark has rules of its own.
        missing: What missing images count.
        failed: What items count whose answer holds no score; the official codes leave them out.
        asker: Whom to ask what is not known; None = nobody.
        progress: Called with the numbers of finished and of all calls.

    Returns:
        The report.

    Raises:
        ValueError: If nothing can be scored, or a policy says so.
    """
    items = run.items()
    failures = {}
    if asker is not None:
        wanted = [request for item in items for request in item.requests]
        failures = ask_all(wanted, answers, asker, progress)
    found = _scores(run, items, answers, judge, failures, {"missing": missing, "failed": failed})
    counts = {status: sum(row["status"] == status for row in found.rows) for status in STATUSES}
    _check(found, counts, answers, judge, {"missing": missing, "failed": failed})
    measures = run.measures(items)
    official = run.official_values(found.records)
    by = run.rules or judge
    scores = []
    for measure in measures:
        binary = run.binary if measure.binary is None else measure.binary
        interval = measured(value_rows(found.rows, measure), measure, binary)
        if interval is None and not measure.absent:
            continue
        name = measure.name
        if interval is None:
            name, interval = f"{name} ({measure.absent})", Interval(math.nan, math.nan, math.nan, 0)
        inside = [row for row in found.rows if measure.group in {None, row["group"]}]
        tally = Counter(row["status"] for row in inside)
        scores.append(
            ScoreRow(
                name=name,
                value=official.get(measure.name, interval.mean),
                low=interval.low,
                high=interval.high,
                total=interval.total,
                missing=tally["missing"],
                unanswered=tally["unanswered"],
                failed=tally["failed"],
                judge=by.id,
                revision=by.revision,
                official=run.official,
                quirks=list(run.quirks),
            )
        )
    return Report(
        format=FORMAT,
        bench=run.name,
        judge=by.id,
        revision=by.revision,
        answered_by=str(judge),
        official=run.official,
        quirks=list(run.quirks),
        settings=dict(run.settings),
        missing_policy=missing,
        failed_policy=failed,
        binary=run.binary,
        counts={"expected": len(items), **counts},
        scores=scores,
        measures=[list(measure) for measure in measures],
        items=found.rows,
    )


def value_rows(rows: Sequence[Row], measure: Measure) -> dict[str, Row]:
    """Return the rows that a measure averages, by key."""
    return {row["key"]: row for row in rows if measure.value in row["values"] and measure.group in {None, row["group"]}}


def measured(rows: Mapping[str, Row], measure: Measure, binary: bool) -> Interval | None:
    """Return the mean of a measure with its interval; None without values.

    Clusters are drawn with replacement, within groups where the measure is a mean of groups. Verdicts on items that are
    alone in their cluster get Wilson's interval.
    """
    values: list[float] = []
    clusters: list[Hashable] = []
    groups: list[Hashable] = []
    for row in rows.values():
        found = row["values"][measure.value]
        for value in found if isinstance(found, list) else [found]:
            values.append(float(value))
            clusters.append((row["group"], row["cluster"]) if measure.macro else row["cluster"])
            groups.append(row["group"])
    if not values:
        return None
    if binary and not measure.macro and len(set(clusters)) == len(clusters):
        return wilson_interval(round(sum(values)), len(values))
    return bootstrap_interval(values, clusters, groups if measure.macro else None)


def _scores(
    run: Run,
    items: list[Item],
    answers: Answers,
    judge: JudgeId,
    failures: Mapping[str, str],
    policies: Mapping[str, Policy],
) -> _Scores:
    rows, records = [], {}
    for item in items:
        status, scored = _scored(run, item, answers, judge, failures)
        if policies.get(status) == "zero":
            scored = run.zero(item)._replace(failed=scored.failed, note=scored.note)
        if scored.record is not None:
            records[item.key] = scored.record
        rows.append(
            Row(
                key=item.key,
                prompt=item.prompt,
                cluster=item.cluster,
                group=item.group,
                status=status,
                reason=scored.failed or scored.note,
                images=[str(image) for image in item.images],
                values=dict(scored.values),
            )
        )
    return _Scores(items, rows, records)


def _scored(run: Run, item: Item, answers: Answers, judge: JudgeId, failures: Mapping[str, str]) -> tuple[str, Scored]:
    if item.missing:
        return "missing", Scored({}, failed=item.missing)
    values = []
    for request in item.requests:
        value = answers.get(judge, request)
        if value is None:
            return "unanswered", Scored({}, failed=failures.get(request.key(), f"no answer of {judge}"))
        values.append(value)
    scored = run.score(item, values)
    return ("failed" if scored.failed else "scored"), scored


def _check(
    found: _Scores, counts: Mapping[str, int], answers: Answers, judge: JudgeId, policies: Mapping[str, Policy]
) -> None:
    first = {row["status"]: f"{row['key']}: {row['reason']}" for row in reversed(found.rows)}
    if counts["unanswered"] and policies["missing"] != "drop":
        message = (
            f"{counts['unanswered']} of {len(found.rows)} items have no answer of {judge} in {answers.path} "
            f"({first['unanswered']}); ask the judge, or leave them out by --missing drop"
        )
        raise ValueError(message)
    for status, policy in policies.items():
        if counts[status] and policy == "error":
            message = (
                f"{counts[status]} of {len(found.rows)} items have {status} ({first[status]}); count them as nothing "
                f"by --{status} zero, or leave them out by --{status} drop"
            )
            raise ValueError(message.replace("have missing", "are missing"))
    if not found.records or not any(math.isfinite(_first(row["values"])) for row in found.rows if row["values"]):
        reasons = "; ".join(f"{number} {status}" for status, number in counts.items() if number)
        message = f"nothing to score: {reasons or 'no items'}"
        raise ValueError(message)


def _first(values: Values) -> float:
    value = next(iter(values.values()))
    return float(value if isinstance(value, int | float) else value[0])
