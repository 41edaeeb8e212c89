"""Cells of reinforcement grids: a start that leaves room, and stages that go on from another cell's exported model.

All cells of a seed start from the same pre-trained model, a cell of its own that runs once a seed: what is claimed is
about the procedure, not about one checkpoint, so the spread of pre-training belongs into the intervals.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from unipic2_train import recipes
from unipic2_train.reproduce.grid import Cell, short_recipe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["EVALUATIONS", "digest", "own_sampling", "reinforce", "score_sampled", "start", "start_words"]

STARTS = {"tiny": ("pretrain/demo", 700), "debug": ("pretrain/debug", 6)}
"""Recipe and steps of the start, by preset: as the demo's model, but trained for less long."""
EVALUATIONS = 4
"""Points of a curve beside the first."""
VALIDATION = {"tiny": 80, "debug": 4}
"""Samples of each kind for a point."""
SECOND = 1000
"""Added to the seed of a second stage, which would otherwise see the first one's rows and noise again."""


def start(preset: str, seed: int, arm: str) -> Cell:
    """Return the cell that all others of its seed start from, which is sampled as they are."""
    name, steps = _declared(preset)
    sampling = recipes.resolve(f"edit-rl/{preset}")["model"]["kontext"]["sampling"]
    settings = {"model.kontext.seed": seed, "model.kontext.sampling": sampling}
    return Cell(arm, seed, "pretrain", short_recipe(name, steps, seed, settings))


def reinforce(
    arm: str,
    parent: Cell,
    tasks: Sequence[str],
    preset: str,
    iterations: int,
    settings: Mapping[str, Any] | None = None,
) -> Cell:
    """Return a cell of one stage.

    Args:
        arm: Its arm.
        parent: What it starts from.
        tasks: "edit", "t2i" or both, in turn.
        preset: Recipes ``edit-rl/PRESET`` and ``t2i-rl/PRESET``.
        iterations: Of all tasks together.
        settings: Further keys, dotted.
    """
    stage = f"{tasks[0]}-rl"
    seed = parent.seed + (SECOND if parent.parent else 0)
    wanted: dict[str, Any] = {"model.kontext.seed": seed, "model.rl.seed": seed, "data.tasks": dict.fromkeys(tasks, 1)}
    if "t2i" in tasks:
        wanted["data.prompts"] = recipes.resolve(f"t2i-rl/{preset}")["data"]["prompts"]
    wanted |= {"data.validation_samples": VALIDATION[preset]} | dict(settings or {})
    recipe = short_recipe(f"{stage}/{preset}", iterations, seed, wanted, EVALUATIONS, VALIDATION[preset])
    return Cell(arm, parent.seed, stage, recipe, parent.arm)


def score_sampled(arm: str, parent: Cell, sampling: Mapping[str, Any]) -> Cell:
    """Return a cell that trains nothing: another cell's model, sampled with other settings."""
    return Cell(arm, parent.seed, None, {"model": {"kontext": {"sampling": dict(sampling)}}}, parent.arm)


def own_sampling(preset: str) -> dict[str, Any]:
    """Return the settings that the start's own recipe samples with: steps and guidance."""
    sampling = recipes.resolve(_declared(preset)[0])["model"]["kontext"]["sampling"]
    return {"steps": int(sampling["steps"]), "guidance": float(sampling["guidance"])}


def digest(cells: Sequence[Cell]) -> str:
    """Return a hash of the recipes of the first seed's cells."""
    first = [[cell.arm, cell.stage, cell.recipe] for cell in cells if cell.seed == cells[0].seed]
    return hashlib.sha256(json.dumps(first, sort_keys=True).encode()).hexdigest()


def start_words(preset: str) -> list[str]:
    """Return paragraphs for the page: what all cells start from, and how curves are made."""
    name, steps = _declared(preset)
    return [
        f"The start is a model after {steps} steps of `{name}`, trained anew for each seed: the claims are about a "
        "procedure, not about one checkpoint, so the intervals hold the spread of pre-training too. A seed decides "
        "initial weights, order of the data and noise; a second stage takes another one, or it would see the rows and "
        "noise of the first again.",
        f"Curves are scores of the averaged model on {VALIDATION[preset]} validation samples of each task, before the "
        f"first iteration and {EVALUATIONS} times on the way, means over seeds. Their seconds are those of sampling, "
        "scoring and optimising, on the hardware named below.",
    ]


def _declared(preset: str) -> tuple[str, int]:
    if preset not in STARTS:
        msg = f"preset {preset!r} has no declared start; known: {', '.join(STARTS)}"
        raise ValueError(msg)
    return STARTS[preset]
