"""The page of a grid, as Markdown and as one HTML file, and the same as JSON.

A page is a list of blocks; both forms are made of it, so that they say the same.
"""

from __future__ import annotations

import base64
import json
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from unipic2_evals.report import Interval, format_interval, markdown_table
from unipic2_train.reproduce.curves import SCORES, arm_curve, pace_of
from unipic2_train.reproduce.plots import plot_arms, plot_curves, plot_differences, plot_watched
from unipic2_train.reproduce.verdicts import SEEDS_FOR_A_VERDICT, Cells, Compared, arm_interval, compare, overall
from unipic2_train.reproduce.watch import TASKS
from unipic2_train.reproduce.watch import rows as watched_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unipic2_train.reproduce.grid import Grid, Pace

__all__ = ["Block", "blocks", "html", "markdown", "write_page"]

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .2rem .7rem; border-bottom: 1px solid #ddd; }
td, th { text-align: right; } td:first-child, th:first-child { text-align: left; } img { max-width: 100%; }
"""


class Block(NamedTuple):
    """A part of the page: a heading, a paragraph, a table or a picture."""

    kind: str
    text: str = ""
    rows: Sequence[Sequence[str]] = ()
    """Of a table, with its titles first. A cell may be ``[text](address)``."""
    file: Path | None = None


def write_page(grid: Grid, cells: Cells, out: Path, command: str) -> list[Path]:
    """Write ``reproduce-NAME.md``, ``.html``, ``.json`` and the pictures that the Markdown shows into ``OUT/report``.

    Args:
        grid: The grid.
        cells: Its finished cells.
        out: The grid's folder.
        command: The command line that runs it.

    Returns:
        The files, the pages first.
    """
    folder, name = out / "report", f"reproduce-{grid.name}"
    folder.mkdir(parents=True, exist_ok=True)
    compared = compare(grid, cells)
    plots = {"arms": folder / f"{name}-arms.png"}
    plot_arms(grid, cells, plots["arms"])
    shown = [each for each in compared if each.difference]
    if shown:
        plots["differences"] = folder / f"{name}-differences.png"
        plot_differences(shown, plots["differences"])
    if any(arm_curve(cells, arm) for arm in grid.arms):
        plots["curves"] = folder / f"{name}-curves.png"
        plot_curves(grid, cells, plots["curves"])
    for task in _watched_tasks(cells):
        plots[f"watched-{task}"] = folder / f"{name}-watched-{task}.png"
        plot_watched(grid, cells, task, plots[f"watched-{task}"])
    grids = {}
    for cell in grid.cells:  # the first finished seed of each arm
        source = out / "cells" / f"{cell.name}.png"
        if cell.name in cells and cell.arm not in grids and source.is_file():
            grids[cell.arm] = folder / f"{name}-{cell.arm}.png"
            grids[cell.arm].write_bytes(source.read_bytes())
    page = blocks(grid, cells, compared, command, plots, grids)
    files = [folder / f"{name}{suffix}" for suffix in (".md", ".html", ".json")]
    texts = (markdown(page), html(grid.title, page), json.dumps(_summary(grid, cells, compared, command), indent=1))
    for file, text in zip(files, texts, strict=True):
        partial = file.with_name(f".{file.name}.partial")
        partial.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
        partial.rename(file)
    return [*files, *plots.values(), *grids.values()]


def blocks(
    grid: Grid,
    cells: Cells,
    compared: Sequence[Compared],
    command: str,
    plots: dict[str, Path],
    grids: dict[str, Path],
) -> list[Block]:
    """Return the page's parts in order."""
    missing = [cell.name for cell in grid.cells if cell.name not in cells]
    page = [Block("heading", grid.title), *(Block("text", text) for text in grid.text), Block("heading", "Verdicts")]
    rows = [_claim_row(each, grid) for each in compared]
    titles = ["claim", "score", "compared", "difference [95 %]", "bound", "seeds", "verdict"]
    page += [Block("text", f"{name}: {verdict}.") for name, verdict in overall(compared).items()]
    page.append(Block("table", rows=[titles, *rows]))
    page.append(
        Block(
            "text",
            "Differences are paired (same seeds, prompts and noise); intervals are by a hierarchical bootstrap over "
            "seeds and prompts. Shown: the interval lies above the bound; refuted: below it. Fewer than "
            f"{SEEDS_FOR_A_VERDICT} seeds give no verdict; with one seed, intervals are over prompts alone.",
        )
    )
    if "differences" in plots:
        page.append(Block("picture", "differences", file=plots["differences"]))
    page += [Block("heading", "Scores"), Block("table", rows=_score_rows(grid, cells))]
    page.append(Block("picture", "scores of arms", file=plots["arms"]))
    if "curves" in plots:
        page += _learning(grid, cells, plots["curves"])
    page += _watching(grid, cells, plots)
    for measure in list(grid.measures)[:2]:
        page += [
            Block("heading", f"By category: {grid.measures[measure]}"),
            Block("table", rows=_category_rows(grid, cells, measure)),
        ]
    for arm, file in grids.items():
        page += [Block("heading", f"Pictures: {arm}"), Block("picture", grid.arms[arm], file=file)]
    page += [Block("heading", "Runs"), Block("table", rows=_run_rows(grid, cells))]
    page += [Block("text", text) for text in _facts(grid, cells, command)]
    if missing:
        page.insert(1, Block("text", f"Not complete: {len(missing)} of {len(grid.cells)} cells are missing."))
    return page


def markdown(page: Sequence[Block]) -> str:
    """Return the page as Markdown; pictures lie beside it."""
    parts = []
    for number, block in enumerate(page):
        if block.kind == "heading":
            parts.append(f"{'#' if number == 0 else '##'} {block.text}\n")
        elif block.kind == "table":
            parts.append(markdown_table(block.rows[0], block.rows[1:]))
        elif block.file is not None:
            parts.append(f"![{block.text}]({block.file.name})\n")
        else:
            parts.append(f"{block.text}\n")
    return "\n".join(parts)


def html(title: str, page: Sequence[Block]) -> str:
    """Return the page as one HTML file with its pictures inside."""
    body = []
    for number, block in enumerate(page):
        if block.kind == "heading":
            level = 1 if number == 0 else 2
            body.append(f"<h{level}>{escape(block.text)}</h{level}>")
        elif block.kind == "table":
            titles, *rows = [[_cell(cell) for cell in row] for row in block.rows]
            body.append("<table><tr>" + "".join(f"<th>{cell}</th>" for cell in titles) + "</tr>")
            body += ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]
            body.append("</table>")
        elif block.file is not None:
            data = base64.b64encode(block.file.read_bytes()).decode()
            body.append(f'<p><img alt="{escape(block.text)}" src="data:image/png;base64,{data}"></p>')
        else:
            body.append(f"<p>{escape(block.text)}</p>")
    head = (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    )
    return head + "\n" + "\n".join(body) + "\n</html>\n"


def _cell(text: str) -> str:
    if text.startswith("[") and text.endswith(")") and "](" in text:
        shown, _, address = text[1:-1].partition("](")
        return f'<a href="{escape(address)}">{escape(shown)}</a>'
    return escape(text)


def _claim_row(each: Compared, grid: Grid) -> list[str]:
    claim, bound = each.claim, "0" if each.claim.margin is None else f"-{each.claim.margin}"
    return [
        f"{claim.part_of}{claim.part_of and ': '}{claim.name} {claim.text}",
        grid.measures[claim.measure],
        f"{claim.second} - {claim.first}",
        _shown(each.difference),
        f"> {bound}",
        str(each.seeds),
        each.verdict,
    ]


def _score_rows(grid: Grid, cells: Cells) -> list[list[str]]:
    rows = [["arm", *grid.measures.values(), "seeds", "minutes a run"]]
    for arm, text in grid.arms.items():
        own = [cell for cell in cells.values() if cell["arm"] == arm]
        minutes = sum(cell["training_seconds"] for cell in own) / 60 / len(own) if own else 0.0
        scores = [_shown(arm_interval(grid, cells, arm, measure)) for measure in grid.measures]
        rows.append([f"{arm}: {text}", *scores, str(len(own)), f"{minutes:.1f}"])
    return rows


def _learning(grid: Grid, cells: Cells, plot: Path) -> list[Block]:
    """Return what the curves say: a row an arm, the picture, and how soon arms gain what others gain."""
    rows = [["arm", "iterations", "images", "minutes", "s an iteration", *(grid.measures[name] for name in SCORES)]]
    for arm in grid.arms:
        curve = arm_curve(cells, arm)
        if curve is None:
            continue
        seconds, iterations = curve["seconds"][-1], curve["iterations"][-1]
        counts = [f"{iterations}", f"{curve['images'][-1]}", f"{seconds / 60:.1f}", f"{seconds / iterations:.2f}"]
        scores = [curve["scores"][name] for name in SCORES]
        rows.append([arm, *counts, *(f"{values[0]:.3f} -> {values[-1]:.3f}" for values in scores)])
    page = [Block("heading", "Learning"), Block("table", rows=rows), Block("picture", "curves", file=plot)]
    if not grid.paces:
        return page
    titles = ["arm", "gains what this one gains", "in", "gain", "minutes", "share of its time", "share of its images"]
    table = [titles, *(_pace_row(grid, cells, pace) for pace in grid.paces)]
    words = "How soon an arm first gains what another one gains in all, on the line through its mean curve's points."
    return [*page, Block("table", rows=table), Block("text", words)]


def _watching(grid: Grid, cells: Cells, plots: dict[str, Path]) -> list[Block]:
    """Return what runs watched against reward hacking: a table and a picture for each task that was reinforced."""
    page = []
    for task in _watched_tasks(cells):
        page += [
            Block("heading", f"Watched in every iteration: {task}"),
            Block("table", rows=watched_rows(grid, cells, task)),
            Block("picture", f"watched, {task}", file=plots[f"watched-{task}"]),
        ]
    words = "Means over the first tenth of a run's iterations and over the last, of the pictures that it learns from."
    return [*page, Block("text", words)] if page else []


def _watched_tasks(cells: Cells) -> list[str]:
    return [task for task in TASKS if any(task in (cell.get("watched") or {}) for cell in cells.values())]


def _pace_row(grid: Grid, cells: Cells, pace: Pace) -> list[str]:
    found, row = pace_of(cells, pace), [pace.arm, pace.reference, grid.measures[pace.measure]]
    if found is None:
        return [*row, *["none yet"] * 4]
    if found.seconds is None or found.share_of_seconds is None or found.share_of_images is None:
        return [*row, f"{found.gain:.3f}", *["never"] * 3]
    shares = [f"{share:.2f}" for share in (found.share_of_seconds, found.share_of_images)]
    return [*row, f"{found.gain:.3f}", f"{found.seconds / 60:.1f}", *shares]


def _category_rows(grid: Grid, cells: Cells, measure: str) -> list[list[str]]:
    groups = list(dict.fromkeys(group for cell in cells.values() for group in cell["scores"][measure]["groups"]))
    rows = [[group, *(_shown(arm_interval(grid, cells, arm, measure, group)) for arm in grid.arms)] for group in groups]
    return [["category", *grid.arms], *rows]


def _run_rows(grid: Grid, cells: Cells) -> list[list[str]]:
    main = list(grid.measures)[:2]
    rows = [["run", *(grid.measures[measure] for measure in main), "training, s", "scoring, s", "date", "MLflow"]]
    for name, cell in cells.items():
        means = []
        for measure in main:
            values = cell["scores"][measure]["values"]
            means.append(f"{sum(values) / len(values):.3f}")
        times = [f"{cell[key]:.0f}" for key in ("training_seconds", "scoring_seconds")]
        rows.append([name, *means, *times, cell["date"], _link(cell["mlflow"])])
    return rows


def _link(run: dict[str, str]) -> str:
    """Return a link to a run: on its server, or on the one that `mlflow ui` starts here."""
    if "experiment_id" not in run:
        return run.get("run_id", "none")
    server = run.get("server", "http://127.0.0.1:5000").rstrip("/")
    return f"[{run['run_id'][:8]}]({server}/#/experiments/{run['experiment_id']}/runs/{run['run_id']})"


def _facts(grid: Grid, cells: Cells, command: str) -> list[str]:
    machines = sorted({cell["hardware"] for cell in cells.values()})
    versions = sorted({json.dumps(cell["versions"], sort_keys=True) for cell in cells.values()})
    lines = [
        f"Command: `{command}`. Seeds: {', '.join(map(str, grid.seeds))}. "
        f"Hardware: {'; '.join(machines) or 'none yet'}. "
        f"Code: {', '.join(sorted({cell['git_revision'] for cell in cells.values()})) or 'none yet'}."
    ]
    lines += ["Versions: " + ", ".join(f"{k} {v}" for k, v in json.loads(text).items()) + "." for text in versions]
    if not any("server" in cell["mlflow"] for cell in cells.values()):
        lines.append("Links to MLflow work while `mlflow ui --backend-store-uri sqlite:///runs/mlflow.db` runs there.")
    return lines


def _summary(grid: Grid, cells: Cells, compared: Sequence[Compared], command: str) -> dict[str, Any]:
    scores = {arm: {measure: _as_json(arm_interval(grid, cells, arm, measure)) for measure in grid.measures}
              for arm in grid.arms}  # fmt: skip
    claims = [
        {**vars(each.claim), "difference": _as_json(each.difference), "seeds": each.seeds, "verdict": each.verdict}
        for each in compared
    ]
    # What can be looked up in the cells is left there: their scores by prompt.
    runs = [{key: value for key, value in cell.items() if key != "scores"} for cell in cells.values()]
    paces = [{**vars(pace), "reached": found and found._asdict()} for pace in grid.paces
             for found in [pace_of(cells, pace)]]  # fmt: skip
    return {"grid": grid.name, "command": command, "settings": grid.settings, "verdicts": overall(compared),
            "claims": claims, "scores": scores, "paces": paces, "runs": runs}  # fmt: skip


def _as_json(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else interval._asdict()


def _shown(interval: Interval | None) -> str:
    return "none yet" if interval is None else format_interval(interval)
