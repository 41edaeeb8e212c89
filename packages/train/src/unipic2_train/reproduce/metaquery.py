"""``reproduce metaquery``: claims C2 and C3, the unified model's joint stage (UniPic 2.0, tables 2 and 3).

All arms start from the same three finished models: the text-to-image DiT, the connector aligned to it (once, for all
arms and seeds) and the Kontext DiT. Beside the report's arms stand Kontext with its text encoders, trained on for as
many steps, and the aligned connector before the joint stage, told the prompt and told nothing.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from unipic2_train import recipes
from unipic2_train.reproduce.grid import Cell, Claim, Grid, short_recipe
from unipic2_train.reproduce.reinforcement import digest
from unipic2_train.reproduce.scoring import EMPTY, MEASURES, score_kontext

__all__ = ["metaquery"]

MARGIN, FAR = 0.03, 0.10
"""A joint model that is lower by more than the first counts as lower, an aligned connector by more than the second."""
JOINT = {
    "both": {},
    "vlm": {"model.reference": "vlm"},
    "dit": {"model.reference": "dit"},
    "connector": {"model.train": "connector"},
    "transformer": {"model.train": "transformer"},
}
"""Arms of the joint stage and what they change."""
EDIT, T2I = "editing", "text-to-image"


def metaquery(preset: str, seeds: int, steps: int, samples: int) -> Grid:
    """Return the grid of C2 and C3.

    Args:
        preset: Recipes ``joint/PRESET``, ``connector/PRESET`` and ``pretrain/PRESET``; they name the models.
        seeds: Number of seeds, from 0.
        steps: Optimiser steps of each arm that is trained.
        samples: Test samples of each kind.
    """
    arms = {
        "both": f"VLM and DiT see the reference, connector and DiT are trained, {steps} steps",
        "vlm": "the VLM alone sees the reference, both are trained",
        "dit": "the DiT alone sees the reference, both are trained",
        "connector": "both see the reference, queries and connector alone are trained",
        "transformer": "both see the reference, the DiT alone is trained",
        "kontext": "Kontext with text encoders in the place of VLM and connector, trained on for as many steps",
        "t2i": "the text-to-image DiT with its text encoders, as it is",
        "aligned": "the same DiT behind VLM and aligned connector, as it is",
        "aligned-empty": "the same again, told nothing: the empty prompt for every sample",
    }
    cells = [cell for seed in range(seeds) for cell in _cells(preset, seed, steps)]
    settings = {"preset": preset, "steps": steps, "samples": samples, "recipes_sha256": digest(cells)}
    score = partial(score_kontext, samples=samples)
    title = "C2 and C3: the joint stage of the unified model"
    return Grid("metaquery", title, _text(steps, samples), arms, MEASURES, _claims(), cells, score, settings)


def _cells(preset: str, seed: int, steps: int) -> list[Cell]:
    trained = []
    for arm, changes in JOINT.items():
        recipe = short_recipe(f"joint/{preset}", steps, seed, {"model.metaquery.seed": seed, **changes})
        trained.append(Cell(arm, seed, "joint", recipe))
    joint = trained[0].recipe
    start, align = joint["model"]["metaquery"], recipes.resolve(f"connector/{preset}")["model"]["metaquery"]
    trained.append(Cell("kontext", seed, "pretrain", _kontext(preset, seed, steps, joint)))
    data = {key: joint["data"][key] for key in ("path", "size")}
    sampling = {**start["sampling"], "seed": seed}  # these are not trained: only their noise differs by seed
    text = {"data": data, "model": {"kontext": {"checkpoint": align["checkpoint"], "sampling": sampling}}}
    read = {"data": data, "model": {"metaquery": {"vlm": start["vlm"], "sampling": sampling}}}
    return [
        *trained,
        Cell("t2i", seed, None, text, model=align["checkpoint"]),
        Cell("aligned", seed, None, read, model=start["conditioner"]),
        Cell("aligned-empty", seed, None, {**read, EMPTY: True}, model=start["conditioner"]),
    ]


def _kontext(preset: str, seed: int, steps: int, joint: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe of Kontext trained on: start, optimiser, EMA and sampling are the joint arms'."""
    settings = {
        "model.kontext.checkpoint": joint["model"]["metaquery"]["checkpoint"],
        "model.kontext.init": "checkpoint",
        "model.kontext.seed": seed,
        "model.kontext.sampling": joint["model"]["metaquery"]["sampling"],
        "model.optimizer": joint["model"]["optimizer"],
        "data.global_batch": joint["data"]["global_batch"],
        "trainer.callbacks": joint["trainer"]["callbacks"],
    }
    return short_recipe(f"pretrain/{preset}", steps, seed, settings)


def _claims() -> list[Claim]:
    claims = [
        Claim(EDIT, "is higher where the DiT sees the reference than where the VLM alone does", "edit/exact", "vlm",
              "dit", part_of="C2"),
        Claim(EDIT, "is higher where both see it than where the VLM alone does", "edit/exact", "vlm", "both",
              part_of="C2"),
        Claim(EDIT, "is higher where both see it than where the DiT alone does", "edit/exact", "dit", "both",
              part_of="C2"),
    ]  # fmt: skip
    tasks = ((EDIT, "edit/exact"), (T2I, "t2i/exact"))
    claims += [
        Claim(name, f"is higher with connector and DiT trained than with the {what} alone", measure, arm, "both",
              part_of="C3")
        for arm, what in (("connector", "connector"), ("transformer", "DiT"))
        for name, measure in tasks
    ]  # fmt: skip
    claims += [
        Claim(name, "is not lower than that of Kontext trained on as long", measure, "kontext", "both", MARGIN)
        for name, measure in tasks
    ]
    return [
        *claims,
        Claim(T2I, "behind the aligned connector is higher than without a prompt", "t2i/exact", "aligned-empty",
              "aligned"),
        Claim(T2I, "behind the aligned connector is within ten points of the text encoders'", "t2i/exact", "t2i",
              "aligned", FAR),
    ]  # fmt: skip


def _text(steps: int, samples: int) -> list[str]:
    return [
        "Claim C2: a reference that the VLM alone sees is worst, and one that VLM and DiT see is best. Claim C3: "
        "tuning connector and DiT beats tuning either. Each is shown if all of its lines are.",
        f"Equal steps: every trained arm takes {steps} optimiser steps of the same batches, text-to-image and edits in "
        "turn, with the same optimiser, schedule and EMA; only who sees the reference, what is trained, and the seed "
        "differ. A seed decides order of the data, noise and dropout. All start from the same Kontext DiT and the same "
        "connector, which was aligned once: intervals hold the spread of the joint stage, not that of its start.",
        "`t2i`, `aligned` and `aligned-empty` are not trained here; their seeds are those of the sampling noise. Five "
        "standard errors are two and a half times the distance of an interval's end from its mean.",
        f"Each model is scored on the same {samples} test samples of each task by detector B; the trained arms from "
        "the same noise.",
    ]
