"""A declared grid: runs by arm and seed, and what is claimed about the arms.

A cell is one training run. A cell may go on from another one, its parent, which then runs once for all its children. A
cell without a stage trains nothing: it is its parent's model, or one that is there already, under other settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from unipic2_train import recipes

if TYPE_CHECKING:
    from unipic2_train.callbacks.grid import GridCell
    from unipic2_train.reproduce.curves import Curve
    from unipic2_train.reproduce.watch import Watched

__all__ = ["Cell", "Claim", "Grid", "Measured", "Pace", "Scored", "nested", "short_recipe"]

SCORERS = ("unipic2_train.callbacks.samples.ShapesEvaluation",)
"""Callbacks of recipes that score: needed for curves only, since a grid scores finished models itself, item by item."""


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
        stage: The stage that is run; None: the parent's model is scored, with `recipe` over its configuration, or
            `model` with `recipe` as all its configuration.
        recipe: Its whole configuration.
        parent: Arm whose cell of this seed it goes on from, or None.
        parent_key: Key of the recipe that takes the parent's model.
        parent_folder: Where that lies in the parent's run.
        model: Without stage and parent: folder or ``home:`` reference of a finished model.
    """

    arm: str
    seed: int
    stage: str | None
    recipe: dict[str, Any]
    parent: str | None = None
    parent_key: str = "model.kontext.checkpoint"
    parent_folder: str = "export"
    model: str | None = None

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
class Pace:
    """A question about learning curves: how soon does ``arm`` gain what ``reference`` gains in all?"""

    measure: str
    reference: str
    arm: str


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
        curve: Reads how a finished run learnt, from its folder; None if it was not looked at on the way.
        paces: What the curves are asked.
        watch: Reads what a finished run watched at each iteration, by task, from its folder; None if there is nothing.
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
    curve: Callable[[Path], Curve | None] | None = None
    paces: list[Pace] = field(default_factory=list)
    watch: Callable[[Path], dict[str, Watched] | None] | None = None

    def __post_init__(self) -> None:
        """Refuse a grid that contradicts itself."""
        seen: set[str] = set()
        for cell in self.cells:
            parent = f"{cell.parent}-seed{cell.seed}"
            if cell.arm not in self.arms or cell.name in seen or (cell.parent is not None and parent not in seen):
                msg = f"cell {cell.name} of grid {self.name}: an unknown arm, a second one, or before its parent"
                raise ValueError(msg)
            if cell.stage is None and cell.parent is None and cell.model is None:
                msg = f"cell {cell.name} of grid {self.name} has neither a stage to run nor a model to score"
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
        return replace(
            self,
            arms={arm: text for arm, text in self.arms.items() if arm in arms},
            claims=[claim for claim in self.claims if {claim.first, claim.second} <= set(arms)],
            cells=kept,
            paces=[pace for pace in self.paces if {pace.reference, pace.arm} <= set(arms)],
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


def short_recipe(
    name: str, steps: int, seed: int, settings: Mapping[str, Any], evaluations: int = 0, samples: int = 0
) -> dict[str, Any]:
    """Return a shipped recipe as a grid runs it: so many steps, one seed for everything.

    Checkpoints come four times a run; the warm-up is at most a tenth of it. Optimiser, schedule and EMA are the
    recipe's. Without evaluations nothing is scored on the way and validation comes at the end; with them the model is
    scored on validation prompts before the first step and so many times from then on, evenly, to draw its curve.

    Args:
        name: The recipe.
        steps: Optimiser steps.
        seed: Of initial weights, noise and order of the data.
        settings: Further keys, dotted.
        evaluations: Points of the curve beside the first.
        samples: Validation samples of each kind for a point.
    """
    recipe = recipes.resolve(name)
    if "data.tasks" in settings:
        recipe["data"].pop("tasks", None)  # replaced, not merged
    own: dict[str, dict[str, Any]] = {
        "TrainingCheckpoint": {"every_n_steps": max(1, steps // 4)},
        "ExportModel": {"publish_as": None},
        "ShapesEvaluation": {"validation_samples": samples, "test_samples": 0},
    }
    callbacks = []
    for callback in recipe["trainer"]["callbacks"]:
        kind = callback["class_path"].rpartition(".")[2]
        if callback["class_path"] in SCORERS and not evaluations:
            continue
        changed = {**callback.get("init_args", {}), **own.get(kind, {})}
        callbacks.append({"class_path": callback["class_path"], "init_args": changed})
    warmup = recipe["model"]["optimizer"].get("warmup_steps")
    shorter = {} if warmup is None else {"model.optimizer.warmup_steps": min(warmup, steps // 10)}
    # The first evaluation is Lightning's sanity check of a whole validation pass; the test split is left to the grid.
    curve = {"trainer.num_sanity_val_steps": -1, "trainer.limit_test_batches": 0} if evaluations else {}
    wanted = {
        "seed_everything": seed,
        "data.seed": seed,
        **shorter,
        "trainer.max_steps": steps,
        "trainer.val_check_interval": max(1, steps // max(1, evaluations)),
        "trainer.callbacks": callbacks,
        **curve,
        **settings,
    }
    return recipes.merge(recipe, nested(wanted))
