"""A declared grid: runs by arm and seed, and what is claimed about the arms.

A cell is one training run. A cell may go on from another one, its parent, which then runs once for all its children.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from unipic2_train import recipes

if TYPE_CHECKING:
    from unipic2_train.callbacks.grid import GridCell

__all__ = ["Cell", "Claim", "Grid", "Measured", "Scored", "nested", "short_recipe"]

SCORERS = ("unipic2_train.callbacks.samples.ShapesEvaluation",)
"""Callbacks of recipes that a grid leaves out: it scores finished models itself, item by item."""


class Measured(TypedDict):
    """One kind of score of one cell: a number for each prompt that all cells share."""

    prompts: list[str]
    groups: list[str]
    """Category of each prompt."""
    values: list[float]


Scored = tuple[dict[str, Measured], "list[GridCell]"]
"""Scores by measure, and pictures at fixed prompts."""


@dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
        arm: Which arm of the grid it belongs to.
        seed: Its seed; cells of one seed are compared as a pair.
        stage: The stage that is run.
        recipe: Its whole configuration.
        parent: Arm whose cell of this seed it goes on from, or None.
        parent_key: Key of the recipe that takes the parent's model.
        parent_folder: Where that lies in the parent's run.
    """

    arm: str
    seed: int
    stage: str
    recipe: dict[str, Any]
    parent: str | None = None
    parent_key: str = "model.kontext.checkpoint"
    parent_folder: str = "export"

    @property
    def name(self) -> str:
        """Name of its run and files."""
        return f"{self.arm}-seed{self.seed}"


@dataclass(frozen=True)
class Claim:
    """Something said about ``second - first`` of a measure.

    Attributes:
        name: In a few words.
        text: The rest of the sentence.
        measure: Which scores.
        first: The arm to compare with.
        second: The arm that the claim is about.
        margin: None: it is better. A number: it is not worse by more than this.
        part_of: Claim of the report (C1, ...) that this is a part of; empty if it only adds to the picture.
    """

    name: str
    text: str
    measure: str
    first: str
    second: str
    margin: float | None = None
    part_of: str = ""


@dataclass(frozen=True)
class Grid:
    """All runs of a reproduction.

    Attributes:
        name: What it is called on the command line.
        title: Of the page.
        text: Paragraphs that say how it was designed, above all what was kept equal.
        arms: What each arm is, by name, in the order of the page.
        measures: What each score is called on the page, by name, the most important first.
        claims: What is to be settled.
        cells: The runs; parents before children.
        score: Scores a finished run, from its folder.
        settings: What else decides about results; a folder of other settings is not gone on with.
    """

    name: str
    title: str
    text: list[str]
    arms: Mapping[str, str]
    measures: Mapping[str, str]
    claims: list[Claim]
    cells: list[Cell]
    score: Callable[[Path], Scored]
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a grid that contradicts itself."""
        seen: set[str] = set()
        for cell in self.cells:
            parent = f"{cell.parent}-seed{cell.seed}"
            if cell.arm not in self.arms or cell.name in seen or (cell.parent is not None and parent not in seen):
                msg = f"cell {cell.name} of grid {self.name}: an unknown arm, a second one, or before its parent"
                raise ValueError(msg)
            seen.add(cell.name)
        for claim in self.claims:
            unknown = {claim.first, claim.second} - set(self.arms)
            if unknown or claim.measure not in self.measures:
                msg = (
                    f"claim {claim.name!r} of grid {self.name} names unknown arms {unknown} or measure {claim.measure}"
                )
                raise ValueError(msg)

    @property
    def seeds(self) -> list[int]:
        """The seeds, in order."""
        return sorted({cell.seed for cell in self.cells})

    def only(self, arms: list[str]) -> Grid:
        """Return the grid with some of its arms and the claims that these can settle.

        Raises:
            ValueError: An arm is unknown, or its parent is left out.
        """
        unknown = [arm for arm in arms if arm not in self.arms]
        if unknown:
            msg = f"arms: expected some of {', '.join(self.arms)}, got {', '.join(unknown)}"
            raise ValueError(msg)
        kept = [cell for cell in self.cells if cell.arm in arms]
        orphans = sorted(
            {f"{cell.arm} goes on from {cell.parent}" for cell in kept if cell.parent not in (None, *arms)}
        )
        if orphans:
            msg = f"arms: {'; '.join(orphans)}: name both"
            raise ValueError(msg)
        return Grid(
            self.name,
            self.title,
            self.text,
            {arm: text for arm, text in self.arms.items() if arm in arms},
            self.measures,
            [claim for claim in self.claims if {claim.first, claim.second} <= set(arms)],
            kept,
            self.score,
            self.settings,
        )


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted keys as nested mappings, as recipes have them."""
    whole: dict[str, Any] = {}
    for key, value in settings.items():
        made: Any = value
        for part in reversed(key.split(".")):
            made = {part: made}
        whole = recipes.merge(whole, made)
    return whole


def short_recipe(name: str, steps: int, seed: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a shipped recipe as a grid runs it: so many steps, one seed for everything, nothing scored on the way.

    Checkpoints come four times a run, validation at its end; the warm-up is at most a tenth of it. Optimiser, schedule
    and EMA are the recipe's.

    Args:
        name: The recipe.
        steps: Optimiser steps.
        seed: Of initial weights, noise and order of the data.
        settings: Further keys, dotted.
    """
    recipe = recipes.resolve(name)
    if "data.tasks" in settings:
        recipe["data"].pop("tasks", None)  # replaced, not merged
    own: dict[str, dict[str, Any]] = {
        "TrainingCheckpoint": {"every_n_steps": max(1, steps // 4)},
        "ExportModel": {"publish_as": None},
    }
    callbacks = []
    for callback in recipe["trainer"]["callbacks"]:
        kind = callback["class_path"].rpartition(".")[2]
        if callback["class_path"] in SCORERS:
            continue
        changed = {**callback.get("init_args", {}), **own.get(kind, {})}
        callbacks.append({"class_path": callback["class_path"], "init_args": changed})
    warmup = recipe["model"]["optimizer"].get("warmup_steps")
    shorter = {} if warmup is None else {"model.optimizer.warmup_steps": min(warmup, steps // 10)}
    wanted = {
        "seed_everything": seed,
        "data.seed": seed,
        **shorter,
        "trainer.max_steps": steps,
        "trainer.val_check_interval": steps,
        "trainer.callbacks": callbacks,
        **settings,
    }
    return recipes.merge(recipe, nested(wanted))
