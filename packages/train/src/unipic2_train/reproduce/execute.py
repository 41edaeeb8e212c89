"""Running a grid's cells: each once, committed when it is whole, gone on with after a stop.

::

    OUT/grid.json             what the grid is; another one is refused
    OUT/runs/CELL             the run of a cell, as any run of its stage; MLflow's store lies beside them
    OUT/cells/CELL.json       written when the cell is trained and scored: it is never run again
    OUT/cells/CELL.png        its pictures at fixed prompts

Several processes may run one grid: a cell that another one holds (a file lock, freed when that process dies) is passed
over until it is committed or free.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from unipic2_train import home, recipes
from unipic2_train.reproduce.curves import tracked_run, tracking_client
from unipic2_train.reproduce.grid import Cell, Grid, nested

__all__ = ["GridError", "committed", "hardware", "run_grid", "train_cell"]

GRID = "grid.json"
WAIT = 2.0
"""Seconds between looks at cells that other processes hold."""


class GridError(ValueError):
    """A folder that holds another grid."""


def run_grid(grid: Grid, out: Path, train: Callable[[Cell, Path, Path | None], float] | None = None) -> None:
    """Run all cells that are not committed yet.

    Args:
        grid: What to run.
        out: Its folder.
        train: Trains a cell in a folder, from its parent's run, and returns the seconds; by default `train_cell`.

    Raises:
        GridError: The folder holds another grid.
    """
    (out / "cells").mkdir(parents=True, exist_ok=True)
    with FileLock(out / ".grid.lock"):
        _enter(grid, out)
    waiting = [cell for cell in grid.cells if not _commit_file(out, cell).is_file()]
    while waiting:
        done = [cell for cell in waiting if _try_cell(grid, cell, out, train or train_cell)]
        waiting = [cell for cell in waiting if cell not in done and not _commit_file(out, cell).is_file()]
        if waiting and not done:
            time.sleep(WAIT)


def committed(grid: Grid, out: Path) -> dict[str, dict[str, Any]]:
    """Return what is known about finished cells, by name."""
    files = {cell.name: _commit_file(out, cell) for cell in grid.cells}
    return {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.is_file()}


def train_cell(cell: Cell, run: Path, parent: Path | None) -> float:
    """Train a cell unless it is trained, from its newest checkpoint if it has one; return the seconds of this attempt.

    Args:
        cell: What to train.
        run: The run's folder.
        parent: Run of the parent, from whose model it starts.
    """
    from unipic2_train import cli, runner
    from unipic2_train.tracking import RunError, find_checkpoint

    start = time.monotonic()
    if (run / "export").is_dir():
        return 0.0
    if cell.stage is None:
        _adopt(cell, run, parent)
        return 0.0
    try:
        find_checkpoint(run)
        arguments = ["--resume", str(run)]
    except RunError:  # nothing to go on from
        shutil.rmtree(run, ignore_errors=True)
        file = run.with_suffix(".yaml")
        file.parent.mkdir(parents=True, exist_ok=True)
        recipe = cell.recipe
        if parent is not None:
            recipe = recipes.merge(recipe, nested({cell.parent_key: str(parent / cell.parent_folder)}))
        file.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
        arguments = ["--config", str(file), "--run_dir", str(run)]
    cli.run_stage(cell.stage, arguments)
    if not (run / "export").is_dir():  # stopped after its last step and before its export
        runner.export_run(run, run / "export")
    return time.monotonic() - start


def hardware() -> str:
    """Return a short description of the machine."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    model = names[0] if names else platform.machine()
    return f"{model}, {os.cpu_count()} cores, threads a process: {torch.get_num_threads()}, no GPU"


def _enter(grid: Grid, out: Path) -> None:
    """Write down what the grid is, or compare; seeds and arms may be added, the rest may not change."""
    file = out / GRID
    said = json.loads(json.dumps({"grid": grid.name, **grid.settings}))
    if not file.exists():
        _write(file, json.dumps(said, indent=2) + "\n")
    known = json.loads(file.read_text(encoding="utf-8"))
    changed = [f"{key}: {known.get(key)!r} then, {said.get(key)!r} now" for key in sorted({*known, *said})
               if known.get(key) != said.get(key)]  # fmt: skip
    if changed:
        msg = f"{out} holds another grid ({'; '.join(changed)}); name another --out, or go on as it began"
        raise GridError(msg)


def _try_cell(grid: Grid, cell: Cell, out: Path, train: Callable[[Cell, Path, Path | None], float]) -> bool:
    """Run a cell unless somebody else does or its parent is not ready, and return whether it is committed."""
    parent = None if cell.parent is None else out / "runs" / f"{cell.parent}-seed{cell.seed}"
    if parent is not None and not (out / "cells" / f"{parent.name}.json").is_file():
        return False
    lock = FileLock(out / "cells" / f".{cell.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    try:
        if not _commit_file(out, cell).is_file():
            _run_cell(grid, cell, out, parent, train)
    finally:
        lock.release()
    return True


def _run_cell(
    grid: Grid, cell: Cell, out: Path, parent: Path | None, train: Callable[[Cell, Path, Path | None], float]
) -> None:
    from unipic2_train.callbacks.grid import save_grid
    from unipic2_train.tracking import git_revision, package_versions

    number = [each.name for each in grid.cells].index(cell.name) + 1
    print(f"cell {number} of {len(grid.cells)}: {cell.name}", flush=True)  # noqa: T201
    run = out / "runs" / cell.name
    seconds = train(cell, run, parent)
    start = time.monotonic()
    scores, pictures = grid.score(run)
    if pictures:
        save_grid(pictures, _commit_file(out, cell).with_suffix(".png"))
    facts = {
        "cell": cell.name,
        "arm": cell.arm,
        "seed": cell.seed,
        "parent": cell.parent,
        "run": f"runs/{cell.name}",
        "mlflow": _mlflow(run),
        "training_seconds": round(seconds, 1),
        "scoring_seconds": round(time.monotonic() - start, 1),
        "date": time.strftime("%Y-%m-%d"),
        "hardware": hardware(),
        "git_revision": git_revision(),
        "versions": package_versions(),
        "scores": scores,
        "curve": grid.curve(run) if grid.curve else None,
    }
    if grid.watch is not None:
        facts["watched"] = grid.watch(run)
    _write(_commit_file(out, cell), json.dumps(facts) + "\n")


def _adopt(cell: Cell, run: Path, parent: Path | None) -> None:
    """Make the folder of a cell that trains nothing.

    It has the parent's model, and its configuration with the cell's over; or a finished model and the cell's alone.
    """
    run.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {}
    if parent is None:
        assert cell.model is not None
        for reference in sorted(set(home.references([cell.recipe, cell.model]))):
            home.provide(reference)
        model = home.path(cell.model).resolve()
    else:
        config = yaml.safe_load((parent / "config.yaml").read_text(encoding="utf-8"))
        model = Path("..", parent.name, "export")
    _write(run / "config.yaml", yaml.safe_dump(recipes.merge(config, cell.recipe), sort_keys=False))
    (run / "export").symlink_to(model)


def _mlflow(run: Path) -> dict[str, str]:
    """Return where the run is in MLflow; empty if it was not tracked."""
    run_id = tracked_run(run)
    if run_id is None:
        return {}
    from mlflow.exceptions import MlflowException

    from unipic2_train.tracking import TRACKING_VARIABLE

    server = os.environ.get(TRACKING_VARIABLE)
    try:
        experiment = tracking_client(run).get_run(run_id).info.experiment_id
    except MlflowException:  # a server that is away; the run's id is known anyway
        return {"run_id": run_id}
    web = {"server": server} if server and server.startswith("http") else {}
    return {"run_id": run_id, "experiment_id": experiment, **web}


def _commit_file(out: Path, cell: Cell) -> Path:
    return out / "cells" / f"{cell.name}.json"


def _write(file: Path, text: str) -> None:
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.rename(file)
