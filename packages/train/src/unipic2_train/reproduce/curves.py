"""How reinforcement runs learnt: scores on the way by iteration, images and seconds, and how soon one arm gains enough.

Seconds are those of sampling, scoring and optimising; what evaluation takes beside them is left out.

Legend: P points of a curve, the first before any iteration.
"""

from __future__ import annotations

import json
import os
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mlflow.tracking import MlflowClient

    from unipic2_train.reproduce.grid import Grid, Pace
    from unipic2_train.reproduce.verdicts import Cells

__all__ = [
    "Curve",
    "Reached",
    "arm_curve",
    "first_reach",
    "history",
    "pace_of",
    "read_curve",
    "started_at",
    "tracked_run",
    "tracking_client",
]

PHASES = ("sample", "score", "optimise")
SCORES = ("t2i/exact", "edit/exact")
AXES = ("iterations", "images", "seconds")


class Curve(TypedDict):
    """What a run had done, and how it scored on validation prompts, at P points."""

    iterations: list[int]
    images: list[int]
    seconds: list[float]
    scores: dict[str, list[float]]


class Reached(NamedTuple):
    """When an arm had gained what another one gains in all; of the mean curves of both."""

    gain: float
    """What the other one gains."""
    seconds: float | None
    """When, from the start of the arm; None: never."""
    images: float | None
    """After how many images."""
    share_of_seconds: float | None
    """The first over all seconds of the other arm."""
    share_of_images: float | None
    """The same of images."""


def read_curve(run: Path) -> Curve | None:
    """Read what a reinforcement run logged; None if it logged no iteration or no score, or its store is away.

    Args:
        run: The run's folder.
    """
    from mlflow.exceptions import MlflowException

    run_id = tracked_run(run)
    if run_id is None:
        return None
    client = tracking_client(run)
    try:
        phases = [history(client, run_id, f"speed/{phase}_seconds") for phase in PHASES]
        scores = {name: history(client, run_id, f"validation/{name}") for name in SCORES}
    except MlflowException:
        return None
    points = sorted(set.intersection(*(set(values) for values in scores.values())))
    if not points or not phases[0]:
        return None
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    seconds = {step: sum(phase[step] for phase in phases) for step in phases[0]}
    return Curve(
        iterations=points,
        images=[point * config["data"]["global_batch"] for point in points],
        seconds=[round(sum(spent for step, spent in seconds.items() if step <= point), 2) for point in points],
        scores={name: [values[point] for point in points] for name, values in scores.items()},
    )


def tracking_client(run: Path) -> MlflowClient:
    """Return a client of the store that holds a run."""
    from mlflow.tracking import MlflowClient

    from unipic2_train.tracking import TRACKING_VARIABLE

    return MlflowClient(os.environ.get(TRACKING_VARIABLE) or f"sqlite:///{run.parent / 'mlflow.db'}")


def history(client: MlflowClient, run_id: str, name: str) -> dict[int, float]:
    """Return the values of a metric by step; of a step that a resumed run did again, the last counts."""
    logged = sorted(client.get_metric_history(run_id, name), key=lambda metric: metric.timestamp)
    return {metric.step: metric.value for metric in logged}


def tracked_run(run: Path) -> str | None:
    """Return the id of a run's record in MLflow; None if it was not tracked."""
    file = run / "run.json"
    return json.loads(file.read_text(encoding="utf-8"))["mlflow_run_id"] if file.is_file() else None


def arm_curve(cells: Cells, arm: str) -> Curve | None:
    """Return the mean curve of an arm over its finished seeds; None without any."""
    curves: list[Curve] = [cell["curve"] for cell in cells.values() if cell["arm"] == arm and cell.get("curve")]
    if not curves:
        return None
    # A run that was stopped between a checkpoint and its evaluation lacks that point.
    shared = set.intersection(*(set(curve["iterations"]) for curve in curves))
    curves = [_only(curve, shared) for curve in curves]
    points = range(len(shared))
    return Curve(
        iterations=curves[0]["iterations"],
        images=curves[0]["images"],
        seconds=[fmean(curve["seconds"][point] for curve in curves) for point in points],
        scores={name: [fmean(curve["scores"][name][point] for curve in curves) for point in points] for name in SCORES},
    )


def started_at(grid: Grid, cells: Cells, arm: str) -> dict[str, float]:
    """Return what the arms that an arm goes on from had done before it, along each of the axes."""
    parent = next(cell.parent for cell in grid.cells if cell.arm == arm)
    before = arm_curve(cells, parent) if parent is not None else None
    if parent is None or before is None:
        return dict.fromkeys(AXES, 0.0)
    earlier = started_at(grid, cells, parent)
    ends: Mapping[str, Any] = before
    return {axis: earlier[axis] + ends[axis][-1] for axis in AXES}


def pace_of(cells: Cells, pace: Pace) -> Reached | None:
    """Return when an arm had gained what its reference gains in all; None while one of them has no curve."""
    arm, reference = arm_curve(cells, pace.arm), arm_curve(cells, pace.reference)
    if arm is None or reference is None:
        return None
    whole = reference["scores"][pace.measure]
    gain, scores = whole[-1] - whole[0], arm["scores"][pace.measure]
    found: dict[str, float | None] = {}
    for axis, places, all_of_it in (
        ("seconds", arm["seconds"], reference["seconds"][-1]),
        ("images", arm["images"], reference["images"][-1]),
    ):
        found[axis] = first_reach(places, scores, scores[0] + gain) if gain > 0 else None
        reached = found[axis]
        found[f"share_of_{axis}"] = None if reached is None else reached / all_of_it
    return Reached(gain=gain, **found)


def first_reach(places: Sequence[float], values: Sequence[float], target: float) -> float | None:
    """Return where a line through points first reaches ``target`` from below; None if it never does.

    Args:
        places: Rising, (P,).
        values: At these, (P,).
        target: To be reached.
    """
    if values[0] >= target:
        return float(places[0])
    steps = zip(places, values, places[1:], values[1:], strict=False)  # each point with the one behind it
    for place, value, next_place, next_value in steps:
        if next_value >= target:
            return place + (target - value) / (next_value - value) * (next_place - place)
    return None


def _only(curve: Curve, points: set[int]) -> Curve:
    """Return a curve at some of its iterations."""
    kept = [place for place, point in enumerate(curve["iterations"]) if point in points]
    return Curve(
        iterations=[curve["iterations"][place] for place in kept],
        images=[curve["images"][place] for place in kept],
        seconds=[curve["seconds"][place] for place in kept],
        scores={name: [values[place] for place in kept] for name, values in curve["scores"].items()},
    )
