"""Reports of scores as files: JSON for programs, Markdown for people, a plot; and the JSON read again."""

import json
import math
import os
from pathlib import Path
from typing import Any, cast

from unipic2_evals.checks import as_field, as_json, as_mapping
from unipic2_evals.report import Interval, markdown_table
from unipic2_evals.scoring import FORMAT, Report

__all__ = ["JSON_NAME", "read_report", "score_table", "write_report"]

JSON_NAME = "scores.json"
MARKDOWN_NAME = "scores.md"
PLOT_NAME = "scores.png"
SHOWN_REASONS = 20


def score_table(report: Report) -> str:
    """Return the table of scores as Markdown; every row says whose judgement it is."""
    rows = [
        [
            row["name"],
            # Proportions have a digit more than scores of 1-5 or 0-10; a benchmark may have both.
            _interval_text(
                Interval(row["value"], row["low"], row["high"], row["total"]),
                3 if report["binary"] or row["high"] <= 1 else 2,
            ),
            *(row[key] for key in ("total", "missing", "unanswered", "failed")),
            f"{row['judge']} ({row['revision']})",
            row["official"],
            ", ".join(row["quirks"]) or "none",
        ]
        for row in report["scores"]
    ]
    headers = ["", "score [95 %]", "n", "missing", "unanswered", "failed", "judge (revision)", "official", "quirks"]
    return markdown_table(headers, rows)


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write ``scores.json``, ``scores.md`` and, if matplotlib is installed, ``scores.png``.

    Args:
        report: What `unipic2_evals.scoring.score_run` returns; images are written relative to the folder.
        folder: Made if need be.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    items = [{**row, "images": [os.path.relpath(image, folder) for image in row["images"]]} for row in report["items"]]
    paths = [folder / JSON_NAME, folder / MARKDOWN_NAME]
    paths[0].write_text(json.dumps(_finite({**report, "items": items}), indent=1) + "\n", encoding="utf-8")
    paths[1].write_text(_markdown(report), encoding="utf-8")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return paths
    _plot(report, folder / PLOT_NAME)
    return [*paths, folder / PLOT_NAME]


def read_report(path: Path) -> Report:
    """Read what `write_report` wrote.

    Args:
        path: The JSON file, or its folder.

    Returns:
        The report, with images as paths from here.

    Raises:
        ValueError: If it is something else.
    """
    file = path / JSON_NAME if path.is_dir() else path
    report = dict(as_mapping(as_json(file.read_text(encoding="utf-8"), str(file)), str(file)))
    if report.get("format") != FORMAT or set(Report.__annotations__) - set(report):
        message = f"{file}: expected what `unipic2-evals score` writes, format {FORMAT}; score the run again"
        raise ValueError(message)
    for row in as_field(report, "items", str(file)):
        row["images"] = [str(file.parent / image) for image in row["images"]]
    return cast("Report", report)


def _markdown(report: Report) -> str:
    counts = ", ".join(f"{number} {name}" for name, number in report["counts"].items())
    settings = ", ".join(f"{name} {value}" for name, value in report["settings"].items())
    policies = f"missing images: {report['missing_policy']}; failed answers: {report['failed_policy']}"
    lacking = [row for row in report["items"] if row["status"] != "scored"]
    lines = [f"- {row['status']}: {row['key']}: {row['reason']}\n" for row in lacking[:SHOWN_REASONS]]
    if len(lacking) > SHOWN_REASONS:
        lines.append(f"- and {len(lacking) - SHOWN_REASONS} more; all are in `{JSON_NAME}`\n")
    return (
        f"# {report['bench']}\n\nItems: {counts}. Policies: {policies}. Settings: {settings or 'none'}.\n"
        f"Answers of {report['answered_by']}. "
        "Intervals: 95 %, clustered by prompt.\n\n" + score_table(report) + ("\n" if lines else "") + "".join(lines)
    )


def _plot(report: Report, path: Path) -> None:
    from matplotlib.figure import Figure

    rows = report["scores"][::-1]
    figure = Figure(figsize=(7, 1.2 + 0.28 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(rows))
    axes.barh(places, [row["value"] for row in rows], color="#9db8d2", height=0.7)
    axes.hlines(places, [row["low"] for row in rows], [row["high"] for row in rows], color="#1f3b57")
    axes.set_yticks(places, [row["name"] for row in rows])
    axes.set_xlim(left=0)
    axes.set_title(f"{report['bench']}, judged by {report['judge']}; 95 % intervals", fontsize=9)
    figure.savefig(path, dpi=120)


def _interval_text(interval: Interval, digits: int) -> str:
    if math.isnan(interval.mean):
        return "no score: a group has no items"
    return f"{interval.mean:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def _finite(value: Any) -> Any:
    """Return JSON without NaN, which is none: null in its place."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    return [_finite(entry) for entry in value] if isinstance(value, list) else value
