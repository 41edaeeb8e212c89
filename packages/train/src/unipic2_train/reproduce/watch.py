"""What reinforcement runs watched at each iteration: every reward by itself, and the guards against reward hacking.

Legend: P iterations.
"""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, TypedDict

from unipic2_train.reproduce.curves import history, tracked_run, tracking_client

if TYPE_CHECKING:
    from pathlib import Path

    from unipic2_train.reproduce.grid import Grid
    from unipic2_train.reproduce.verdicts import Cells

__all__ = ["TASKS", "Watched", "arm_watched", "ends", "read_watched", "rows", "words"]

TASKS = ("edit", "t2i")
ALARM = "alarm"
WORDS = {
    "reward": "reward, weighted sum",
    "held_out": "held-out judge",
    "no_op_rate": "edits that do nothing",
    "over_edit_rate": "edits that do too much",
    "diversity": "spread within groups",
    "velocity_drift": "drift of the velocity",
    ALARM: "alarms, iterations",
}
ENDS = 10
"""The part of a run, one over this, that its beginning and its end are the means of."""


class Watched(TypedDict):
    """What one run watched of one task."""

    iterations: list[int]
    """P of them, from the first on."""
    values: dict[str, list[float]]
    """``reward``, ``reward/NAME`` and the guards' names, P numbers each."""


def read_watched(run: Path) -> dict[str, Watched] | None:
    """Read what a reinforcement run watched, by task; None if it logged nothing, or its store is away.

    Args:
        run: The run's folder.
    """
    from mlflow.exceptions import MlflowException

    run_id = tracked_run(run)
    if run_id is None:
        return None
    client = tracking_client(run)
    try:
        logged = client.get_run(run_id).data.metrics
        histories = {
            name: history(client, run_id, name) for name in logged if name.startswith(("rl/reward_", "guard/"))
        }
    except MlflowException:
        return None
    found = {}
    for task in TASKS:
        own = {short: values for name, values in histories.items() if (short := _short(name, task)) is not None}
        if own:
            points = sorted(set.intersection(*(set(values) for values in own.values())))
            values = {name: [of_name[point] for point in points] for name, of_name in sorted(own.items())}
            found[task] = Watched(iterations=points, values=values)
    return found or None


def arm_watched(cells: Cells, arm: str, task: str) -> Watched | None:
    """Return the means over an arm's finished seeds; None without any."""
    runs: list[Watched] = [
        cell["watched"][task] for cell in cells.values() if cell["arm"] == arm and task in (cell.get("watched") or {})
    ]
    if not runs:
        return None
    # What a run logged last before it was killed may be lacking.
    shared = sorted(set.intersection(*(set(run["iterations"]) for run in runs)))
    places = [[run["iterations"].index(point) for point in shared] for run in runs]
    names = [name for name in runs[0]["values"] if all(name in run["values"] for run in runs)]
    values = {
        name: [
            fmean(run["values"][name][place[number]] for run, place in zip(runs, places, strict=True))
            for number in range(len(shared))
        ]
        for name in names
    }
    return Watched(iterations=shared, values=values)


def ends(watched: Watched, name: str) -> tuple[float, float]:
    """Return the means of a value over the first and the last tenth of the iterations."""
    values = watched["values"][name]
    count = max(1, len(values) // ENDS)
    return fmean(values[:count]), fmean(values[-count:])


def words(name: str) -> str:
    """Return what a value is called on the page."""
    return WORDS.get(name) or f"reward: {name.partition('/')[2]}"


def rows(grid: Grid, cells: Cells, task: str) -> list[list[str]]:
    """Return the page's table of a task, titles first: each value from the beginning to the end of the run."""
    shown = {arm: found for arm in grid.arms if (found := arm_watched(cells, arm, task)) is not None}
    names = list(dict.fromkeys(name for found in shown.values() for name in found["values"]))
    table = [["arm", *map(words, names)]]
    for arm, found in shown.items():
        row = [arm]
        for name in names:
            if name not in found["values"]:
                row.append("")
            elif name == ALARM:
                row.append(f"{sum(found['values'][name]):g}")
            else:
                first, last = ends(found, name)
                row.append(f"{first:.3f} -> {last:.3f}")
        table.append(row)
    return table


def _short(name: str, task: str) -> str | None:
    """Return a metric's name without its task; None if it is another task's, or says nothing of hacking."""
    kind, _, rest = name.partition("/")
    what, _, reward = rest.partition("/")
    if not what.endswith(f"_{task}") or what.startswith("reward_spread"):
        return None
    short = what.removesuffix(f"_{task}")
    return f"{short}/{reward}" if kind == "rl" and reward else short
