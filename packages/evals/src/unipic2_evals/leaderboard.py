"""Published scores as a page: a data file in which every number names its source, and the Markdown made of it.

Run ``python -m unipic2_evals.leaderboard docs/results/leaderboard.json`` after a change of the data; the page is
written beside it. Numbers are kept as printed by their source, as text.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unipic2_evals.checks import as_field, as_json, as_mapping, as_rows, as_text
from unipic2_evals.report import markdown_table

__all__ = ["leaderboard_page", "main"]

HEAD = """<!-- Made of {data} by python -m unipic2_evals.leaderboard; change that file. -->

# Where the field stands

Scores that others have published, as of {as_of}, with the source of every number. None was measured by this project; a
number of ours is entered only with the report of `unipic2-evals score` that it comes from.

Read across a row with care, and down a column with more:

- GEdit-Bench and ImgEdit-Bench are scored by a judge model, and judges differ: GPT-4.1, GPT-4o and Qwen2.5-VL-72B are
  not on one scale.
- ImgEdit-Bench has three Overalls in use. Leaderboards print the mean of the nine edit types.
- GenEval rises by several points when prompts are rewritten, and to .95 and more where its own rules are the reward.
- Sampling alone moves GenEval by about .01 and ImgEdit-Bench by about .05 (one standard error).

"""
KINDS = {"primary": "", "secondary": "; second hand: quoted from there, not checked against the paper"}


def leaderboard_page(data: Mapping[str, Any], name: str) -> str:
    """Return the page.

    Args:
        data: ``as_of``, ``columns`` {key: title}, ``sources`` {key: {``where``, ``kind``}}, and ``tables`` {title:
            rows}; a row has ``model``, ``scores`` {column: [{``value``, ``source``}]}, and perhaps ``size``, ``date``
            and ``note``.
        name: What to call the data file.

    Returns:
        Markdown.

    Raises:
        ValueError: If a field is missing, a number has no known source, or a source is never used.
    """
    sources = as_mapping(as_field(data, "sources", name), "sources")
    columns = as_mapping(as_field(data, "columns", name), "columns")
    numbers = {key: number for number, key in enumerate(sources, start=1)}
    used: set[str] = set()
    page = HEAD.format(data=name, as_of=as_text(as_field(data, "as_of", name), "as_of"))
    for title, rows in as_mapping(as_field(data, "tables", name), "tables").items():
        cells = [_cells(row, columns, numbers, used) for row in as_rows(rows, title)]
        notes = [f"- {row['model']}: {row['note']}.\n" for row in rows if row.get("note")]
        page += f"## {title}\n\n{markdown_table(['model', 'size', 'date', *columns.values()], cells)}\n"
        page += "".join(notes) + ("\n" if notes else "")
    if set(sources) - used:
        message = f"{name}: sources that no number names: {sorted(set(sources) - used)}"
        raise ValueError(message)
    return page + "## Sources\n\n" + "".join(_source(key, numbers[key], sources[key]) for key in sources)


def main(arguments: Sequence[str]) -> None:
    """Write the page beside the data file that is the only argument."""
    if len(arguments) != 1:
        message = "expected one argument, the path of leaderboard.json"
        raise ValueError(message)
    path = Path(arguments[0])
    data = as_mapping(as_json(path.read_text(encoding="utf-8"), str(path)), str(path))
    path.with_suffix(".md").write_text(leaderboard_page(data, path.name), encoding="utf-8")


def _cells(row: Mapping[str, Any], columns: Mapping[str, str], numbers: Mapping[str, int], used: set[str]) -> list[str]:
    model = as_text(as_field(row, "model", "row"), "model")
    scores = as_mapping(as_field(row, "scores", model), f"scores of {model}")
    if not scores or set(scores) - set(columns):
        message = f"scores of {model}: expected some of {list(columns)}, got {list(scores)}"
        raise ValueError(message)
    cells = [model, row.get("size", ""), row.get("date", "")]
    for column in columns:
        values = []
        for score in scores.get(column, []):
            source = as_field(score, "source", f"{column} of {model}")
            if source not in numbers:
                message = f"{column} of {model}: unknown source {source!r}"
                raise ValueError(message)
            used.add(source)
            values.append(f"{as_text(as_field(score, 'value', model), f'{column} of {model}')} ({numbers[source]})")
        cells.append(", ".join(values))
    return cells


def _source(key: str, number: int, source: Mapping[str, Any]) -> str:
    kind = as_field(source, "kind", key)
    if kind not in KINDS:
        message = f"source {key!r}: expected kind {' or '.join(KINDS)}, got {kind!r}"
        raise ValueError(message)
    return f"{number}. {as_text(as_field(source, 'where', key), key)}{KINDS[kind]}.\n"


if __name__ == "__main__":
    main(sys.argv[1:])
